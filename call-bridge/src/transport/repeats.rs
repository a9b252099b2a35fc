//! Sound that comes more than once where packets are lost. Nothing can be put into payloads that are encrypted between the clients, as
//! `red` does with others, but what was sent can be sent again as it was. Receivers drop what they have already, by the protection against
//! replay that they all need (RFC 3711, section 3.3.2), so it costs them nothing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many of the packets before come again with each: two, so that three have to be lost until something is missing.
const EARLIER: usize = 2;
/// Or one, where the path carries less than this beside them, in bits per second: what is lost there may be lost because it is so narrow.
const NARROW: u64 = 500_000;
/// For how long that goes on after something was lost. What comes again counts as received: no report tells that it is still needed.
const FOR: Duration = Duration::from_secs(10);
/// What came before a pause comes too late afterwards.
const LATE_AFTER: Duration = Duration::from_millis(200);

/// What was sent last in a stream, to be sent again.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// As they went out, oldest first.
    earlier: VecDeque<(Instant, Vec<u8>)>,
    until: Option<Instant>,
}

impl Repeats {
    /// Something was lost.
    pub(super) fn begin(&mut self, now: Instant) {
        self.until = Some(now + FOR);
    }

    /// Whether something is sent again.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// A packet goes out, over a path that carries so many bits per second, if that is known. Those that go out with it once more are
    /// handed to `again`.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        carried: Option<u64>,
        packet: &[u8],
        mut again: impl FnMut(&[u8]),
    ) {
        let Some(until) = self.until else { return };
        if now >= until {
            *self = Self::default();
            return;
        }
        while self.earlier.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= LATE_AFTER) {
            self.earlier.pop_front();
        }
        let most = if carried.is_some_and(|carried| carried < NARROW) { 1 } else { EARLIER };
        for (_, earlier) in self.earlier.iter().skip(self.earlier.len().saturating_sub(most)) {
            again(earlier);
        }
        let mut kept = if self.earlier.len() < EARLIER {
            Vec::with_capacity(packet.len())
        } else {
            self.earlier.pop_front().map(|(_, bytes)| bytes).unwrap_or_default()
        };
        kept.clear();
        kept.extend_from_slice(packet);
        self.earlier.push_back((now, kept));
    }
}

/// Of which stream a datagram is a packet, if it is one of media (RFC 5761, section 4).
pub(super) fn ssrc_of(datagram: &[u8]) -> Option<u32> {
    let [first, second, ..] = datagram else { return None };
    let is_media = first >> 6 == 2 && !(64..96).contains(&(second & 0x7f));
    let ssrc = datagram.get(8..12).filter(|_| is_media)?;
    ssrc.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    fn sent_over(repeats: &mut Repeats, now: Instant, carried: Option<u64>, packet: &str) -> Vec<String> {
        let mut again = Vec::new();
        repeats.sent(now, carried, packet.as_bytes(), |bytes| {
            again.push(String::from_utf8(bytes.to_vec()).unwrap());
        });
        again
    }

    fn sent(repeats: &mut Repeats, now: Instant, packet: &str) -> Vec<String> {
        sent_over(repeats, now, None, packet)
    }

    #[test]
    fn two_before_come_again_for_a_while_after_a_loss() {
        let mut now = SystemClock.monotonic();
        let mut repeats = Repeats::default();
        assert!(sent(&mut repeats, now, "zero").is_empty() && !repeats.is_on());
        repeats.begin(now);
        assert!(sent(&mut repeats, now, "one").is_empty());
        for (packet, expected) in
            [("two", &["one"][..]), ("three", &["one", "two"]), ("four", &["two", "three"])]
        {
            now += Duration::from_millis(20);
            assert_eq!(sent(&mut repeats, now, packet), expected);
        }
        now += LATE_AFTER;
        assert!(sent(&mut repeats, now, "after a pause").is_empty());
        now += FOR;
        assert!(sent(&mut repeats, now, "much later").is_empty() && !repeats.is_on());
    }

    #[test]
    fn one_comes_again_on_a_narrow_path() {
        let now = SystemClock.monotonic();
        let mut repeats = Repeats::default();
        repeats.begin(now);
        for packet in ["one", "two"] {
            sent(&mut repeats, now, packet);
        }
        assert_eq!(sent_over(&mut repeats, now, Some(NARROW - 1), "three"), ["two"]);
        assert_eq!(sent_over(&mut repeats, now, Some(NARROW), "four"), ["two", "three"]);
    }

    #[test]
    fn streams_are_told_by_their_packets() {
        let packet = [0x80, 0xef, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(ssrc_of(&packet), Some(0x0102_0304));
        assert_eq!(ssrc_of(&packet[..11]), None, "it is cut off");
        assert_eq!(ssrc_of(&[0x80, 200, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]), None, "a report (RTCP)");
        assert_eq!(ssrc_of(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "STUN");
        assert_eq!(ssrc_of(&[]), None);
    }
}
