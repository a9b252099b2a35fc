//! `Range` (RFC 9110, section 14): what of a file is asked for.

use std::ops::Range;

use http::{HeaderMap, header};

/// What of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Nothing,
}

/// What the headers ask for of a file of `size` bytes. More ranges than one, or other units than bytes, are answered with all of it.
pub(crate) fn asked(headers: &HeaderMap, size: u64, etag: &str) -> Asked {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Asked::Whole };
    // Somebody goes on with what may have been another file. Media never change, so only the tag can tell.
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Asked::Whole;
    }
    parsed(range, size).unwrap_or(Asked::Whole)
}

fn parsed(range: &str, size: u64) -> Option<Asked> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { Some(text.parse().unwrap_or(u64::MAX)) } else { None }
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => (size.saturating_sub(number(suffix)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    Some(if start < end { Asked::Part(start..end) } else { Asked::Nothing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        for (range, expected) in [
            ("bytes=0-0", Some(Asked::Part(0..1))),
            ("bytes=5-", Some(Asked::Part(5..10))),
            ("bytes=5-100", Some(Asked::Part(5..10))),
            ("bytes=-3", Some(Asked::Part(7..10))),
            ("bytes=-30", Some(Asked::Part(0..10))),
            ("Bytes = 2-3", Some(Asked::Part(2..4))),
            ("bytes=10-", Some(Asked::Nothing)),
            ("bytes=10-20", Some(Asked::Nothing)),
            ("bytes=-0", Some(Asked::Nothing)),
            ("bytes=99999999999999999999-", Some(Asked::Nothing)),
            ("bytes=3-2", None),
            ("bytes=0-1,4-5", None),
            ("bytes=+1-2", None),
            ("bytes=-", None),
            ("lines=1-2", None),
            ("bytes", None),
        ] {
            assert_eq!(parsed(range, 10), expected, "{range}");
        }
        assert_eq!(parsed("bytes=0-", 0), Some(Asked::Nothing));
    }
}
