//! From names of another network to names that Matrix allows.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// What is left of a user id's 255 bytes for a ghost's name, behind its prefix and before the server's.
const MOST_BYTES: usize = 100;

/// The end of a ghost's localpart for a name of another network. Different names have different ends.
///
/// The rules are those that the specification gives under "mapping from other character sets": capital letters become `_` and
/// the small one, `_` becomes `__`, every other byte that may not stand there `=` and two hexadecimal digits. A name that gets
/// longer than 100 bytes becomes `/` and a digest: no other ever begins so.
pub fn ghost_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => encoded.push(char::from(byte)),
            b'_' => encoded.push_str("__"),
            b'A'..=b'Z' => {
                encoded.push('_');
                encoded.push(char::from(byte.to_ascii_lowercase()));
            }
            _ => {
                // Writing to a string does not fail.
                let _ = write!(encoded, "={byte:02x}");
            }
        }
    }
    if encoded.len() > MOST_BYTES {
        format!("/{}", hexadecimal(&Sha256::digest(name.as_bytes())))
    } else {
        encoded
    }
}

/// Bytes in small hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Cuts a text to at most so many bytes, between two characters.
pub(crate) fn truncate(text: &mut String, most_bytes: usize) {
    let mut end = most_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped_by_the_specification() {
        assert_eq!(ghost_name("alice.1-2"), "alice.1-2");
        assert_eq!(ghost_name("Alice_B"), "_alice___b");
        assert_eq!(ghost_name("é/="), "=c3=a9=2f=3d");
    }

    #[test]
    fn long_names_become_digests() {
        let (one, other) = ("x".repeat(101), "x".repeat(102));
        assert_eq!(ghost_name(&one).len(), 65);
        assert!(ghost_name(&one).starts_with('/'));
        assert_ne!(ghost_name(&one), ghost_name(&other));
    }
}
