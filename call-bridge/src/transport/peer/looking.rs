use std::time::Duration;

use str0m::{bwe::Bitrate, stats::PeerStats};

use super::{
    super::{Figures, Mid, TransportEvent},
    Peer,
};

/// How often [`Figures`] come.
const FIGURES_EVERY: Duration = Duration::from_secs(2);
/// From this share of lost packets on, sound carries the packets before it along.
const LOSSY_FROM: f32 = 0.01;
/// And does so as long as more than this is lost.
const LOSSY_UNTIL: f32 = 0.002;
/// From this share of lost packets on a path counts as full: it is not filled with padding to find out what more it carries.
const FULL_FROM: f32 = 0.05;

impl Peer {
    /// Looks at what the stack tells of the connection.
    pub(super) fn look(&mut self, stats: &PeerStats) -> Option<TransportEvent> {
        let now = self.now;
        let loss = stats.egress_loss_fraction.unwrap_or(0.0);
        let was_full = std::mem::replace(&mut self.loss, loss) > FULL_FROM;
        if was_full != (loss > FULL_FROM) {
            self.apply_bitrates();
        }
        // That of video, which has no part in the reports on sound.
        for sender in self.senders.values_mut().filter(|sender| sender.is_lossy || loss > LOSSY_FROM) {
            sender.repeats.begin(now);
        }
        self.repeats = self.senders.values().any(|sender| sender.is_repeated);
        tracing::trace!(estimate = ?self.estimate, now = ?stats.bwe_tx, loss, "what a path carries");
        let before = self.estimate.told();
        if let Some(rate) = stats.bwe_tx
            && let Some(rate) = self.estimate.now(rate.as_u64(), loss)
        {
            if before.is_some_and(|before| rate < before / 2) {
                self.forget_sent();
            }
            self.recovered.push_back(TransportEvent::Bandwidth(rate));
        }
        if now.saturating_duration_since(self.figures_told) < FIGURES_EVERY {
            return None;
        }
        self.figures_told = now;
        Some(TransportEvent::Figures(Figures { jitter: self.jitter.take(), ..figures(stats) }))
    }

    /// Notes the share of what was sent in a section that its receiver missed.
    pub(super) fn note_loss(&mut self, mid: Mid, loss: Option<f32>) {
        if let Some((sender, loss)) = self.senders.get_mut(&mid).zip(loss) {
            sender.is_lossy = loss > if sender.is_lossy { LOSSY_UNTIL } else { LOSSY_FROM };
        }
    }

    /// Tells the bandwidth estimator what to reach next.
    pub(super) fn apply_bitrates(&mut self) {
        let (next, desired) = self.bitrates;
        // Up to the next step the stack fills what it sends with padding.
        let next = if self.loss > FULL_FROM { 0 } else { next };
        self.rtc.bwe().set_bitrate(Bitrate::bps(next), Bitrate::bps(desired));
    }
}

fn figures(stats: &PeerStats) -> Figures {
    let pair = stats.selected_candidate_pair.as_ref();
    Figures {
        loss_to: stats.egress_loss_fraction,
        loss_from: stats.ingress_loss_fraction,
        round_trip: stats.rtt.or_else(|| pair.and_then(|pair| pair.current_round_trip_time)),
        bytes_to: stats.peer_bytes_tx,
        bytes_from: stats.peer_bytes_rx,
        local: pair.map(|pair| pair.local.addr),
        remote: pair.map(|pair| pair.remote.addr),
        jitter: None,
    }
}
