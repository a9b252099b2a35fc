use std::time::Duration;

use str0m::{
    bwe::Bitrate,
    stats::{MediaEgressStats, PeerStats},
};

use super::{
    super::{Figures, TransportEvent, estimate::FULL_FROM},
    LOOKS_A_SECOND, Peer,
};

/// How often [`Figures`] come.
const FIGURES_EVERY: Duration = Duration::from_secs(2);
/// From this share of lost packets on, sound carries the packets before it along.
const LOSSY_FROM: f32 = 0.01;
/// And does so as long as more than this is lost.
const LOSSY_UNTIL: f32 = 0.002;

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
        let [sound, video] = std::mem::take(&mut self.sent).map(|bytes| bytes * 8 * LOOKS_A_SECOND);
        if let Some(rate) = stats.bwe_tx.map(|rate| rate.as_u64()) {
            let anew = self.estimate.begins_anew(rate, loss, sound);
            if let Some(rate) = anew {
                self.rtc.bwe().reset(Bitrate::bps(rate));
            }
            if let Some(rate) = self.estimate.now(anew.unwrap_or(rate), loss, video) {
                self.recovered.push_back(TransportEvent::Bandwidth(rate));
            }
        }
        if now.saturating_duration_since(self.figures_told) < FIGURES_EVERY {
            return None;
        }
        self.figures_told = now;
        Some(TransportEvent::Figures(Figures { jitter: self.jitter.take(), ..figures(stats) }))
    }

    /// Notes what was sent in a section, and the share of it that its receiver missed.
    pub(super) fn note_sent(&mut self, stats: &MediaEgressStats) {
        let Some(sender) = self.senders.get_mut(&stats.mid) else { return };
        let sent = stats.bytes.saturating_sub(std::mem::replace(&mut sender.bytes, stats.bytes));
        let [sound, video] = &mut self.sent;
        let is_sound = sender.parameters.is_some_and(|parameters| parameters.spec().codec.is_audio());
        *if is_sound { sound } else { video } += sent;
        if let Some(loss) = stats.loss {
            sender.is_lossy = loss > if sender.is_lossy { LOSSY_UNTIL } else { LOSSY_FROM };
        }
    }

    /// Tells the bandwidth estimator what to reach next.
    pub(super) fn apply_bitrates(&mut self) {
        // Up to the next step the stack fills what it sends with padding, and what would be liked it looks for with bursts, for which it holds
        // media back. On a full path neither helps.
        let (next, desired) = if self.loss > FULL_FROM { (0, 0) } else { self.bitrates };
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
