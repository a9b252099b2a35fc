//! Numbers of bytes, as people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::InvalidValue;

/// Largest first, so that [`ByteSize`] is displayed in the largest unit that divides it.
const BINARY_UNITS: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL_UNITS: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

/// A number of bytes. Written as `"64 MiB"` (1024-based: `KiB`, `MiB`, `GiB`, `TiB`), `"64 MB"` (1000-based: `kB`, `MB`,
/// `GB`, `TB`), `"512 B"` or as a bare number of bytes; whole numbers only, units in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// So many times 1024 bytes; the largest representable size when that is too much.
    pub const fn kibibytes(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// So many times 1024² bytes; the largest representable size when that is too much.
    pub const fn mebibytes(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes; the largest `usize` where it is more than the machine can address.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in BINARY_UNITS {
            if self.0 != 0 && self.0.is_multiple_of(bytes) {
                return write!(formatter, "{} {unit}", self.0 / bytes);
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidValue::new(format!("expected {EXPECTED}, found {text:?}"));
        let text = text.trim();
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let bytes = bytes_of_unit(unit.trim()).ok_or_else(invalid)?;
        number.checked_mul(bytes).map(Self).ok_or_else(invalid)
    }
}

fn bytes_of_unit(name: &str) -> Option<u64> {
    if name.is_empty() || name.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    BINARY_UNITS
        .iter()
        .chain(&DECIMAL_UNITS)
        .find(|(unit, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, bytes)| *bytes)
}

const EXPECTED: &str = "a whole number of bytes, such as \"64 MiB\"";

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_understood() {
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1_500),
            ("512 B", 512),
            ("64 MiB", 64 << 20),
            ("64MiB", 64 << 20),
            (" 64  mib ", 64 << 20),
            ("2 GiB", 2 << 30),
            ("3 TiB", 3 << 40),
            ("5 kB", 5_000),
            ("5 MB", 5_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "MiB", "1.5 GiB", "-1", "64 M", "64 MiB/s", "99999999999 TiB", "18446744073709551616"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_largest_whole_unit_is_shown() {
        assert_eq!(ByteSize::bytes(0).to_string(), "0 B");
        assert_eq!(ByteSize::bytes(1023).to_string(), "1023 B");
        assert_eq!(ByteSize::mebibytes(100).to_string(), "100 MiB");
        assert_eq!(ByteSize::mebibytes(2048).to_string(), "2 GiB");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(number in any::<u64>(), shift in 0_u32..44) {
            let size = ByteSize::bytes((number >> shift) << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
