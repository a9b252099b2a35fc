//! `[rate_limits]`: how often one caller may ask.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::values::InvalidValue;

/// How often one caller may ask. Whoever is known is counted by name, others by address (IPv6: by /64). Beyond the limit a
/// request is answered with 429 `M_LIMIT_EXCEEDED`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Whether anything is limited at all.
    pub enabled: bool,
    /// Attempts to log in, by address.
    pub login_by_address: Rate,
    /// Attempts to log in, by account.
    pub login_by_account: Rate,
    /// Failed attempts to log in, by account.
    pub failed_login_by_account: Rate,
    /// Attempts to register, by address.
    pub registration_by_address: Rate,
    /// Requests without an access token that the specification calls rate-limited, by address.
    pub requests_by_address: Rate,
    /// Requests with an access token that the specification calls rate-limited, by user.
    pub requests_by_user: Rate,
    /// Downloads and thumbnails, by user.
    pub media_by_user: Rate,
    /// Previews of links, by user.
    pub previews_by_user: Rate,
    /// Requests of another server, by its name.
    pub requests_by_server: Rate,
}

impl Default for RateLimits {
    /// Generous: a whole office behind one address, or a busy client that catches up, should not notice them.
    fn default() -> Self {
        Self {
            enabled: true,
            login_by_address: Rate::constant(1.0, 50),
            login_by_account: Rate::constant(0.2, 10),
            failed_login_by_account: Rate::constant(0.1, 5),
            registration_by_address: Rate::constant(0.2, 10),
            requests_by_address: Rate::constant(20.0, 200),
            requests_by_user: Rate::constant(20.0, 200),
            media_by_user: Rate::constant(100.0, 1_000),
            previews_by_user: Rate::constant(1.0, 20),
            requests_by_server: Rate::constant(100.0, 1000),
        }
    }
}

/// A token bucket: `burst` at once, and `per_second` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many in a second, in the long run.
    pub per_second: PerSecond,
    /// How many at once.
    pub burst: NonZeroU32,
}

impl Rate {
    fn constant(per_second: f64, burst: u32) -> Self {
        Self {
            per_second: PerSecond::try_from(per_second).expect("a constant rate"),
            burst: NonZeroU32::new(burst).expect("a constant above zero"),
        }
    }
}

/// How many in a second: from 0.000001 (one in eleven days) to 1 000 000.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct PerSecond(f64);

impl PerSecond {
    /// How many in a second.
    pub fn as_f64(self) -> f64 {
        self.0
    }

    /// The time from one to the next.
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

impl TryFrom<f64> for PerSecond {
    type Error = InvalidValue;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        // Not a number is outside every range.
        if (0.000_001..=1_000_000.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(InvalidValue::new(format!("expected a number from 0.000001 to 1000000, found {number}")))
        }
    }
}

impl From<PerSecond> for f64 {
    fn from(rate: PerSecond) -> Self {
        rate.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_has_an_interval() {
        let interval = |number| PerSecond::try_from(number).map(PerSecond::interval);
        assert_eq!(interval(0.2), Ok(Duration::from_secs(5)));
        assert_eq!(interval(1_000_000.0), Ok(Duration::from_micros(1)));
        assert_eq!(interval(0.000_001).map(|interval| interval.as_secs()), Ok(1_000_000));
        for number in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            assert!(interval(number).is_err(), "{number}");
        }
    }
}
