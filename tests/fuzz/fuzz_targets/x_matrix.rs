//! The header by which other servers say who they are.
#![no_main]

use entente_federation::fuzzing::x_matrix;
use libfuzzer_sys::fuzz_target;

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fuzz_target!(|header: &str| {
    let Some((origin, destination, key, signature)) = x_matrix(header) else { return };
    let mut again =
        format!("X-Matrix origin={},key={},sig={}", quoted(&origin), quoted(&key), quoted(&signature));
    if let Some(destination) = &destination {
        again.push_str(&format!(",destination={}", quoted(destination)));
    }
    // What is escaped may make it too long.
    if let Some(read) = x_matrix(&again) {
        assert_eq!(read, (origin, destination, key, signature));
    } else {
        assert!(again.len() > 4_096, "{again}");
    }
});
