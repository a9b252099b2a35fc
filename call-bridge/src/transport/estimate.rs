//! What a path carries, as far as it is known.

use str0m::bwe::Bitrate;

/// From which share of the mean on, in percent, what is estimated now counts instead: the path has become narrower.
const NARROWER: u64 = 75;
/// And from which share on when it was so much twice in a row: the path has become wider.
const WIDER: u64 = 125;
/// For how many estimates after it became narrower what is lost is taken for lost by that.
const NARROWED_FOR: u8 = 10;

/// The stack tells a mean of some seconds, which is steady enough to choose layers by. By that, a path that becomes narrower at once would be
/// flooded for as long, and one that becomes wider would be left unused. Rates are in bits per second.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    mean: Option<u64>,
    /// What is estimated now, less what is lost.
    carried: u64,
    now: Option<u64>,
    before: Option<u64>,
    /// How many estimates are still to be taken with what is lost.
    narrowed: u8,
    told: Option<u64>,
}

impl Estimate {
    /// The mean is another. Answers what to go by, if that is another.
    pub(super) fn mean(&mut self, rate: u64) -> Option<u64> {
        self.mean = Some(rate);
        self.tell()
    }

    /// What is estimated now, and the share of what was sent that did not come, from 0 to 1. Answers what to go by, if that is another.
    pub(super) fn now(&mut self, rate: u64, loss: f32) -> Option<u64> {
        self.before = self.now.replace(rate);
        // What is lost in queues that overflow is not carried. Estimates follow slowly: a queue that stays full grows no longer.
        self.narrowed = self.narrowed.saturating_sub(1);
        let lost = Bitrate::from(rate) * f64::from(loss.clamp(0.0, 1.0));
        self.carried = rate.saturating_sub(lost.as_u64());
        self.tell()
    }

    /// What to go by.
    pub(super) fn told(&self) -> Option<u64> {
        self.told
    }

    fn tell(&mut self) -> Option<u64> {
        let mean = self.mean?;
        let rate = match (self.now, self.before) {
            (Some(now), _) if now < mean / 100 * NARROWER => {
                self.narrowed = NARROWED_FOR;
                self.carried
            }
            _ if self.narrowed > 0 => mean.min(self.carried),
            (Some(now), Some(before)) if now.min(before) > mean / 100 * WIDER => now.min(before),
            _ => mean,
        };
        (self.told.replace(rate) != Some(rate)).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_counts_while_the_path_is_as_it_was() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.now(1_000_000, 0.0), None, "nothing is known yet");
        assert_eq!(estimate.mean(1_100_000), Some(1_100_000));
        for rate in [900_000, 1_300_000, 1_000_000] {
            assert_eq!(estimate.now(rate, 0.2), None, "it wavers, and losses are a part of it");
        }
    }

    #[test]
    fn a_narrower_path_counts_at_once() {
        let mut estimate = Estimate::default();
        estimate.mean(2_000_000);
        assert_eq!(estimate.now(1_000_000, 0.5), Some(500_000), "half of it does not come");
        assert_eq!(estimate.now(400_000, 0.0), Some(400_000));
        assert_eq!(estimate.mean(1_500_000), None);
        assert_eq!(estimate.mean(390_000), Some(390_000), "the mean is as far");
        assert_eq!(estimate.now(400_000, 0.5), Some(200_000), "the queue is full");
        for _ in 0..NARROWED_FOR {
            estimate.now(400_000, 0.5);
        }
        assert_eq!(estimate.told(), Some(390_000), "that is how the path is");
    }

    #[test]
    fn a_wider_path_counts_when_it_stays_so() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.mean(200_000), Some(200_000));
        assert_eq!(estimate.now(210_000, 0.0), None);
        assert_eq!(estimate.now(900_000, 0.0), None);
        assert_eq!(estimate.now(800_000, 0.0), Some(800_000));
        assert_eq!(estimate.mean(300_000), None);
        assert_eq!(estimate.now(250_000, 0.0), Some(300_000), "it was not so wide");
    }
}
