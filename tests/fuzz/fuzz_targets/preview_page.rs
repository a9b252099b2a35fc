//! Pages that others link to. The first line is the type.
#![no_main]

use entente_media::fuzzing::page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let content_type = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let (told, _) = page(lines.next().unwrap_or_default(), &content_type);
    assert!(told.len() <= 66, "{} properties", told.len());
    for (name, content) in &told {
        let content = content.as_str().expect("it is a text");
        assert!(name.len() <= 64 && content.chars().count() <= 1_000, "{name}");
        assert!(!content.contains(['\r', '\n']), "{name} is one line");
    }
});
