//! What a path carries, as far as it is known.

use std::collections::VecDeque;

use str0m::bwe::Bitrate;

/// From which share of the mean on, in percent, what is estimated now counts instead: the path has become narrower.
const NARROWER: u64 = 75;
/// And from which share on when it was so much twice in a row: the path has become wider.
const WIDER: u64 = 125;
/// For how many estimates after it became narrower what is lost is taken for lost by that.
const NARROWED_FOR: u8 = 10;
/// From this share of lost packets on a path counts as full, or as one that loses packets whatever is sent.
pub(super) const FULL_FROM: f32 = 0.05;
/// How many estimates in a row something has to arrive to be counted on: the first ones do not know yet what is lost.
const ARRIVES_FOR: usize = 4;
/// The share of what arrives that is always counted on, in percent: a full path is left some room to empty its queues.
const COUNTED_ON: u64 = 75;
/// The stack begins anew with so many times what arrives, if it takes the path for less than what arrives. It holds back what exceeds its
/// estimate, up to two seconds: keyframes do, and what is sent once more.
const ANEW: u64 = 2;

/// The stack tells a mean of some seconds, which is steady enough to choose layers by. By that, a path that becomes narrower at once would be
/// flooded for as long, and one that becomes wider would be left unused. On a path that loses packets whatever is sent its estimates sink
/// without end: what demonstrably arrives there counts more. Rates are in bits per second.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    mean: Option<u64>,
    /// What is estimated now, less what is lost.
    carried: u64,
    now: Option<u64>,
    before: Option<u64>,
    /// How many estimates are still to be taken with what is lost.
    narrowed: u8,
    /// What arrived of video at the last estimates, while much was lost.
    arrived: VecDeque<u64>,
    /// Whether the stack began anew while much was lost: what it estimates by that was not measured.
    is_anew: bool,
    told: Option<u64>,
}

impl Estimate {
    /// The mean is another. Answers what to go by, if that is another.
    pub(super) fn mean(&mut self, rate: u64) -> Option<u64> {
        self.mean = Some(rate);
        self.tell()
    }

    /// What is estimated now, the share of what was sent that did not come, from 0 to 1, and what was sent of video since the last estimate.
    /// Answers what to go by, if that is another.
    pub(super) fn now(&mut self, rate: u64, loss: f32, video: u64) -> Option<u64> {
        self.before = self.now.replace(rate);
        // What is lost in queues that overflow is not carried. Estimates follow slowly: a queue that stays full grows no longer.
        self.narrowed = self.narrowed.saturating_sub(1);
        self.carried = without(rate, loss);
        if loss > FULL_FROM {
            self.arrived.push_back(without(video, loss));
            self.arrived.drain(..self.arrived.len().saturating_sub(ARRIVES_FOR));
        } else {
            self.arrived.clear();
        }
        self.tell()
    }

    /// From what the stack has to begin anew instead of the `rate` that it estimates now: if that is less than the path carries of video and of
    /// `sound`, of which the estimate knows nothing, but by which it holds video back; and after that, when little is lost any more, from
    /// what was gone by.
    pub(super) fn begins_anew(&mut self, rate: u64, loss: f32, sound: u64) -> Option<u64> {
        if loss <= FULL_FROM {
            return self.told.filter(|_| std::mem::take(&mut self.is_anew));
        }
        let carries = self.arrives()? + sound;
        if rate >= carries {
            return None;
        }
        self.is_anew = true;
        Some(carries * ANEW)
    }

    /// What of video arrives at least, if much was lost for so long that this is known.
    fn arrives(&self) -> Option<u64> {
        let lately = self.arrived.iter().min().filter(|_| self.arrived.len() == ARRIVES_FOR);
        lately.copied()
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
        let rate = match self.arrives() {
            // Estimates also rise here now and then: pictures that become larger for some seconds only stand still at both ends of them.
            Some(arrives) => rate.min(self.told.unwrap_or(rate)).max(arrives / 100 * COUNTED_ON),
            None => rate,
        };
        (self.told.replace(rate) != Some(rate)).then_some(rate)
    }
}

fn without(rate: u64, loss: f32) -> u64 {
    let lost = Bitrate::from(rate) * f64::from(loss.clamp(0.0, 1.0));
    rate.saturating_sub(lost.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_counts_while_the_path_is_as_it_was() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.now(1_000_000, 0.0, 0), None, "nothing is known yet");
        assert_eq!(estimate.mean(1_100_000), Some(1_100_000));
        for rate in [900_000, 1_300_000, 1_000_000] {
            assert_eq!(estimate.now(rate, 0.2, 0), None, "it wavers, and losses are a part of it");
        }
    }

    #[test]
    fn a_narrower_path_counts_at_once() {
        let mut estimate = Estimate::default();
        estimate.mean(2_000_000);
        assert_eq!(estimate.now(1_000_000, 0.5, 0), Some(500_000), "half of it does not come");
        assert_eq!(estimate.now(400_000, 0.0, 0), Some(400_000));
        assert_eq!(estimate.mean(1_500_000), None);
        assert_eq!(estimate.mean(390_000), Some(390_000), "the mean is as far");
        assert_eq!(estimate.now(400_000, 0.5, 0), Some(200_000), "the queue is full");
        for _ in 0..NARROWED_FOR {
            estimate.now(400_000, 0.04, 0);
        }
        assert_eq!(estimate.told(), Some(390_000), "that is how the path is");
    }

    #[test]
    fn a_wider_path_counts_when_it_stays_so() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.mean(200_000), Some(200_000));
        assert_eq!(estimate.now(210_000, 0.0, 0), None);
        assert_eq!(estimate.now(900_000, 0.0, 0), None);
        assert_eq!(estimate.now(800_000, 0.0, 0), Some(800_000));
        assert_eq!(estimate.mean(300_000), None);
        assert_eq!(estimate.now(250_000, 0.0, 0), Some(300_000), "it was not so wide");
    }

    #[test]
    fn what_arrives_counts_where_much_is_lost() {
        let mut estimate = Estimate::default();
        estimate.mean(200_000);
        for _ in 1..ARRIVES_FOR {
            estimate.now(32_000, 0.25, 160_000);
            assert_eq!(estimate.told(), Some(24_000));
            assert_eq!(estimate.begins_anew(30_000, 0.25, 50_000), None, "perhaps more is lost");
        }
        assert_eq!(estimate.now(32_000, 0.25, 160_000), Some(90_000), "three quarters of 120 kbit/s");
        assert_eq!(estimate.mean(500_000), None, "it does not rise while so much is lost");
        assert_eq!(estimate.begins_anew(170_000, 0.25, 50_000), None, "it is enough");
        assert_eq!(estimate.begins_anew(169_999, 0.25, 50_000), Some(340_000));
        assert_eq!(estimate.now(340_000, 0.25, 0), None, "nothing was sent for a moment");
        assert_eq!(
            estimate.begins_anew(340_000, 0.0, 50_000),
            Some(90_000),
            "nobody knows whether it carries that"
        );
        assert_eq!(estimate.now(90_000, 0.0, 150_000), None);
        assert_eq!(estimate.begins_anew(90_000, 0.0, 50_000), None);
    }

    #[test]
    fn what_arrives_does_not_count_where_little_is_lost() {
        let mut estimate = Estimate::default();
        estimate.mean(200_000);
        for _ in 0..=ARRIVES_FOR {
            estimate.now(30_000, 0.04, 150_000);
            assert_eq!(estimate.told(), Some(28_800), "it is the delay that grows");
            assert_eq!(estimate.begins_anew(30_000, 0.04, 50_000), None);
        }
    }
}
