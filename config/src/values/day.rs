//! Days of the calendar.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::InvalidValue;

const MILLISECONDS_OF_A_DAY: u64 = 24 * 60 * 60 * 1_000;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: u32 = 719_468;

/// A day of the Gregorian calendar, from 1970 to 9999, written as `"2026-12-31"`. It begins at midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    year: u32,
    month: u32,
    of_month: u32,
}

impl Day {
    /// When it begins, in milliseconds since 1970.
    pub fn begins_at(self) -> u64 {
        // Years are counted from March, so that the day a leap year adds is the last of its year.
        let (year, month) =
            if self.month > 2 { (self.year, self.month - 3) } else { (self.year - 1, self.month + 9) };
        let leap_days = year / 4 - year / 100 + year / 400;
        let days = year * 365 + leap_days + (153 * month + 2) / 5 + self.of_month - 1;
        u64::from(days - DAYS_BEFORE_1970) * MILLISECONDS_OF_A_DAY
    }

    fn exists(self) -> bool {
        let is_leap_year =
            self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days = match self.month {
            2 if is_leap_year => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1970..=9999).contains(&self.year) && (1..=days).contains(&self.of_month)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}-{:02}", self.year, self.month, self.of_month)
    }
}

impl FromStr for Day {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidValue::new(format!("expected {EXPECTED}, found {text:?}"));
        let number = |text: &str, digits: usize| {
            let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (year, rest) = text.split_once('-').ok_or_else(invalid)?;
        let (month, day) = rest.split_once('-').ok_or_else(invalid)?;
        let parts = (number(year, 4), number(month, 2), number(day, 2));
        let (Some(year), Some(month), Some(day)) = parts else { return Err(invalid()) };
        let day = Self { year, month, of_month: day };
        if day.exists() { Ok(day) } else { Err(invalid()) }
    }
}

const EXPECTED: &str = "a day, such as \"2026-12-31\"";

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begins_at(text: &str) -> u64 {
        text.parse::<Day>().expect("a day").begins_at()
    }

    #[test]
    fn days_begin_at_midnight() {
        assert_eq!(begins_at("1970-01-01"), 0);
        assert_eq!(begins_at("1970-03-01"), 59 * MILLISECONDS_OF_A_DAY);
        assert_eq!(begins_at("2000-02-29"), 951_782_400_000);
        assert_eq!(begins_at("2024-12-31"), 1_735_603_200_000);
        assert_eq!(begins_at("9999-12-31"), 253_402_214_400_000);
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "",
            "2026",
            "2026-1-1",
            "2026-02-29",
            "2100-02-29",
            "2026-13-01",
            "2026-04-31",
            "1969-12-31",
            "2026-00-01",
        ] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_next_day_begins_a_day_later(year in 1970_u32..9999, month in 1_u32..=12, day in 1_u32..=30) {
            let (this, next) = (Day { year, month, of_month: day }, Day { year, month, of_month: day + 1 });
            prop_assume!(this.exists() && next.exists());
            prop_assert_eq!(next.begins_at() - this.begins_at(), MILLISECONDS_OF_A_DAY);
            prop_assert_eq!(this.to_string().parse(), Ok(this));
        }
    }
}
