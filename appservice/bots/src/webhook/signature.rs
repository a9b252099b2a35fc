//! Proof that a request comes from who has the secret, and is as it was sent.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The HMAC-SHA256 of the parts, as small hexadecimal digits.
pub fn sign(secret: &str, parts: &[&[u8]]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        // HMAC takes keys of any length.
        return String::new();
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether two secrets or signatures are the same. Their digests are compared, so that the time says nothing.
pub(super) fn is_same(given: &str, expected: &str) -> bool {
    !expected.is_empty() && Sha256::digest(given.as_bytes()) == Sha256::digest(expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(sign("Jefe", &[b"what do ya want ", b"for nothing?"]), expected);
        assert!(is_same(expected, expected) && !is_same("", "") && !is_same(expected, "5b"));
    }
}
