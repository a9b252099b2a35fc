//! Lengths of time, as people write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::InvalidValue;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// Units by their spellings; of each length the first is the one that is displayed. Largest first. Weeks are read but not
/// shown: "14 days" is what people say.
const UNITS: [(&str, u64); 16] = [
    ("weeks", WEEK),
    ("week", WEEK),
    ("w", WEEK),
    ("days", DAY),
    ("day", DAY),
    ("d", DAY),
    ("h", HOUR),
    ("hours", HOUR),
    ("hour", HOUR),
    ("min", MINUTE),
    ("minutes", MINUTE),
    ("minute", MINUTE),
    ("s", SECOND),
    ("seconds", SECOND),
    ("second", SECOND),
    ("ms", 1),
];

/// A length of time in whole milliseconds. Written as a whole number and a unit: `"500 ms"`, `"30 s"`, `"5 min"`, `"2 h"`,
/// `"7 days"`, `"2 weeks"`. A number without a unit is refused: it would be guesswork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan {
    milliseconds: u64,
}

impl TimeSpan {
    /// So many thousandths of a second.
    pub const fn milliseconds(count: u64) -> Self {
        Self { milliseconds: count }
    }

    /// So many seconds; the longest representable span when that is too much.
    pub const fn seconds(count: u64) -> Self {
        Self { milliseconds: count.saturating_mul(SECOND) }
    }

    /// So many minutes; the longest representable span when that is too much.
    pub const fn minutes(count: u64) -> Self {
        Self { milliseconds: count.saturating_mul(MINUTE) }
    }

    /// So many hours; the longest representable span when that is too much.
    pub const fn hours(count: u64) -> Self {
        Self { milliseconds: count.saturating_mul(HOUR) }
    }

    /// So many days of 24 hours; the longest representable span when that is too much.
    pub const fn days(count: u64) -> Self {
        Self { milliseconds: count.saturating_mul(DAY) }
    }

    /// The same length as the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    /// The length in milliseconds.
    pub const fn as_milliseconds(self) -> u64 {
        self.milliseconds
    }

    /// Whether it has no length at all.
    pub const fn is_zero(self) -> bool {
        self.milliseconds == 0
    }
}

impl From<TimeSpan> for Duration {
    fn from(span: TimeSpan) -> Self {
        span.duration()
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milliseconds == 0 {
            return formatter.write_str("0 s");
        }
        if self.milliseconds == DAY {
            return formatter.write_str("1 day");
        }
        let shown =
            UNITS.iter().find(|(_, length)| *length <= DAY && self.milliseconds.is_multiple_of(*length));
        let (unit, length) = shown.copied().unwrap_or(("ms", 1));
        write!(formatter, "{} {unit}", self.milliseconds / length)
    }
}

impl FromStr for TimeSpan {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidValue::new(format!("expected {EXPECTED}, found {text:?}"));
        let text = text.trim();
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = unit.trim();
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        number.checked_mul(*length).map(Self::milliseconds).ok_or_else(invalid)
    }
}

const EXPECTED: &str = "a length of time with its unit, such as \"30 s\", \"5 min\" or \"7 days\"";

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = TimeSpan;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

impl Serialize for TimeSpan {
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
        for (text, span) in [
            ("500 ms", TimeSpan::milliseconds(500)),
            ("30 s", TimeSpan::seconds(30)),
            ("30s", TimeSpan::seconds(30)),
            ("1 second", TimeSpan::seconds(1)),
            ("5 min", TimeSpan::minutes(5)),
            ("2 h", TimeSpan::hours(2)),
            ("1 day", TimeSpan::days(1)),
            ("7 days", TimeSpan::days(7)),
            ("1 week", TimeSpan::days(7)),
            (" 0  s ", TimeSpan::seconds(0)),
        ] {
            assert_eq!(text.parse(), Ok(span), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "30", "s", "-1 s", "1.5 h", "1 h 30 min", "5 m", "1 year", "18446744073709551615 days"]
        {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_largest_whole_unit_is_shown() {
        for (span, text) in [
            (TimeSpan::seconds(0), "0 s"),
            (TimeSpan::milliseconds(1_500), "1500 ms"),
            (TimeSpan::seconds(90), "90 s"),
            (TimeSpan::seconds(120), "2 min"),
            (TimeSpan::hours(24), "1 day"),
            (TimeSpan::days(14), "14 days"),
        ] {
            assert_eq!(span.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(number in 0_u64..200_000, unit in 0..UNITS.len()) {
            let span = TimeSpan::milliseconds(number * UNITS[unit].1);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn any_length_is_read_back(milliseconds in any::<u64>()) {
            let span = TimeSpan::milliseconds(milliseconds);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
