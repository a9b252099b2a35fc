//! A peer connection on which we make all offers: the subscriber connection of `/rtc`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::sdp::{self, MediaLabel};
use crate::transport::{MediaKind, Mid, Offer, OfferChanges};

/// Subscriptions that come together are negotiated together.
const GATHER: Duration = Duration::from_millis(100);
/// After this time an offer that nobody answered is made again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Our offers, one at a time, and what is in their sections. `K` tells tracks apart.
#[derive(Debug)]
pub(crate) struct Offering<K> {
    sections: Vec<Place<K>>,
    waiting: Vec<(K, MediaKind, MediaLabel)>,
    round: Option<Round<K>>,
    offer_at: Option<Instant>,
    open_channels: bool,
    restart: bool,
    last_id: u32,
}

#[derive(Debug)]
struct Place<K> {
    mid: Mid,
    kind: MediaKind,
    track: Option<(K, MediaLabel)>,
    /// As last agreed.
    sending: bool,
}

/// An offer on its way.
#[derive(Debug)]
pub(crate) struct Round<K> {
    id: u32,
    /// What is to be added, in order.
    added: Vec<(K, MediaKind, MediaLabel)>,
    /// Sections that get a track again.
    started: Vec<(K, Mid)>,
    stopped: Vec<Mid>,
    channels: bool,
    restart: bool,
    give_up_at: Instant,
}

impl<K: Copy + PartialEq> Default for Offering<K> {
    fn default() -> Self {
        Self {
            sections: Vec::new(),
            waiting: Vec::new(),
            round: None,
            offer_at: None,
            open_channels: false,
            restart: false,
            last_id: 0,
        }
    }
}

impl<K: Copy + PartialEq> Offering<K> {
    /// Begins with data channels.
    pub(crate) fn open_channels(&mut self, now: Instant) {
        self.open_channels = true;
        self.offer_at = Some(now);
    }

    /// Wants a section for a track.
    pub(crate) fn subscribe(&mut self, now: Instant, track: K, kind: MediaKind, label: MediaLabel) {
        self.waiting.push((track, kind, label));
        self.offer_at.get_or_insert(now + GATHER);
    }

    /// Gives the section of a track up; answers its name if it had one.
    pub(crate) fn unsubscribe(&mut self, now: Instant, track: K) -> Option<Mid> {
        self.waiting.retain(|(other, ..)| *other != track);
        let holds = |place: &&mut Place<K>| place.track.as_ref().is_some_and(|(other, _)| *other == track);
        let place = self.sections.iter_mut().find(holds)?;
        place.track = None;
        self.offer_at.get_or_insert(now + GATHER);
        Some(place.mid)
    }

    /// The client has come back and may have another address.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.restart = true;
        // What was offered last did not arrive.
        self.abandon();
        self.offer_at = Some(now);
    }

    /// When [`Self::changes`] has something to say.
    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.round {
            Some(round) => Some(round.give_up_at),
            None => self.offer_at,
        }
    }

    /// What the next offer changes, if it is time for one.
    pub(crate) fn changes(&mut self, now: Instant) -> Option<OfferChanges> {
        if self.round.as_ref().is_some_and(|round| round.give_up_at <= now) {
            self.abandon();
            self.offer_at = Some(now);
        }
        if self.round.is_some() || self.offer_at.is_none_or(|at| at > now) {
            return None;
        }
        self.offer_at = None;
        let mut round = Round {
            id: self.last_id + 1,
            added: Vec::new(),
            started: Vec::new(),
            stopped: Vec::new(),
            channels: std::mem::take(&mut self.open_channels),
            restart: std::mem::take(&mut self.restart),
            give_up_at: now + ANSWER_WITHIN,
        };
        for (track, kind, label) in std::mem::take(&mut self.waiting) {
            let free = |place: &&mut Place<K>| place.kind == kind && place.track.is_none();
            match self.sections.iter_mut().find(free) {
                Some(place) => {
                    place.track = Some((track, named_by_stream(label)));
                    round.started.push((track, place.mid));
                }
                None => round.added.push((track, kind, label)),
            }
        }
        let idle = self.sections.iter().filter(|place| place.track.is_none() && place.sending);
        round.stopped = idle.map(|place| place.mid).collect();
        let changes = OfferChanges {
            add: round.added.iter().map(|(_, kind, _)| *kind).collect(),
            start: round.started.iter().map(|(_, mid)| *mid).collect(),
            stop: round.stopped.clone(),
            channels: round.channels,
            restart: round.restart,
        };
        if changes == OfferChanges::default() {
            return None;
        }
        self.last_id = round.id;
        self.round = Some(round);
        Some(changes)
    }

    /// The transport's offer as the client is to see it: its number, its text, and which track is in which section.
    pub(crate) fn offered(&mut self, offer: &Offer) -> Option<(u32, String, BTreeMap<String, String>)> {
        let round = self.round.as_mut()?;
        for ((track, kind, label), mid) in std::mem::take(&mut round.added).into_iter().zip(&offer.added) {
            self.sections.push(Place { mid: *mid, kind, track: Some((track, label)), sending: false });
            round.started.push((track, *mid));
        }
        let taken = |place: &Place<K>| Some((place.mid.to_string(), place.track.as_ref()?.1.clone()));
        let labels: BTreeMap<String, MediaLabel> = self.sections.iter().filter_map(taken).collect();
        let tracks = labels.iter().map(|(mid, label)| (mid.clone(), label.track.clone())).collect();
        Some((round.id, sdp::labelled(&offer.sdp, &labels), tracks))
    }

    /// Whether this answer is to the open offer; clients that do not number answer 0.
    pub(crate) fn expects(&self, id: u32) -> bool {
        self.round.as_ref().is_some_and(|round| id == 0 || round.id == id)
    }

    /// The transport took the answer: the tracks that can be sent now, each with its section.
    pub(crate) fn answered(&mut self, now: Instant) -> Vec<(K, Mid)> {
        let Some(round) = self.round.take() else { return Vec::new() };
        for place in &mut self.sections {
            if round.stopped.contains(&place.mid) {
                place.sending = false;
            }
            if round.started.iter().any(|(_, mid)| *mid == place.mid) {
                place.sending = true;
            }
        }
        if !self.waiting.is_empty()
            || self.sections.iter().any(|place| place.track.is_none() && place.sending)
        {
            self.offer_at.get_or_insert(now);
        }
        // A track may have been given up while its offer was on the way.
        let holds = |track: K, mid: Mid| {
            self.sections.iter().any(|place| {
                place.mid == mid && place.track.as_ref().is_some_and(|(other, _)| *other == track)
            })
        };
        round.started.into_iter().filter(|(track, mid)| holds(*track, *mid)).collect()
    }

    /// Forgets the open offer; what it was to change waits again.
    fn abandon(&mut self) {
        let Some(round) = self.round.take() else { return };
        self.waiting.extend(round.added);
        for (track, mid) in round.started {
            let Some(at) = self.sections.iter().position(|place| place.mid == mid) else { continue };
            let held = self.sections.get_mut(at).and_then(|place| {
                let kind = place.kind;
                place.track.take_if(|(other, _)| *other == track).map(|(_, label)| (track, kind, label))
            });
            self.waiting.extend(held);
            // Sections that were never agreed upon do not exist for the transport.
            if self.sections.get(at).is_some_and(|place| !place.sending) {
                self.sections.remove(at);
            }
        }
        self.open_channels |= round.channels;
        self.restart |= round.restart;
    }
}

/// The label of a track in a section that was another's before: browsers go on calling what it receives by the first track's name, so
/// clients take the track from the name of the stream, where there is one. It is no longer played in step with others.
fn named_by_stream(label: MediaLabel) -> MediaLabel {
    let participant = label.stream.split('|').next().unwrap_or_default();
    MediaLabel { stream: format!("{participant}|{}", label.track), track: label.track }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    fn label(track: &str) -> MediaLabel {
        MediaLabel { stream: "PA_a|camera".to_owned(), track: track.to_owned() }
    }

    fn offer(added: &[&str]) -> Offer {
        Offer { sdp: "v=0\r\n".to_owned(), added: added.iter().map(|mid| Mid::from(*mid)).collect() }
    }

    #[test]
    fn one_offer_after_the_other() {
        let now = SystemClock.monotonic();
        let mut session = Offering::default();
        session.open_channels(now);
        let changes = session.changes(now).unwrap();
        assert_eq!(changes, OfferChanges { channels: true, ..OfferChanges::default() });
        assert_eq!(session.offered(&offer(&[])).unwrap().0, 1);
        session.subscribe(now, 1, MediaKind::Audio, label("TR_1"));
        let later = now + GATHER;
        assert_eq!(session.changes(later), None, "one is open");
        assert!(session.expects(1) && !session.expects(2));
        assert!(session.answered(later).is_empty());
        assert_eq!(session.changes(later).unwrap().add, [MediaKind::Audio]);
        let (id, _, tracks) = session.offered(&offer(&["5"])).unwrap();
        assert_eq!((id, tracks["5"].as_str()), (2, "TR_1"));
        assert_eq!(session.answered(later), [(1, Mid::from("5"))]);
        assert_eq!(session.deadline(), None);
    }

    #[test]
    fn sections_are_used_again() {
        let now = SystemClock.monotonic();
        let mut session = Offering::default();
        session.subscribe(now, 1, MediaKind::Video, label("TR_1"));
        let later = now + GATHER;
        session.changes(later).unwrap();
        session.offered(&offer(&["5"])).unwrap();
        session.answered(later);
        assert_eq!(session.unsubscribe(later, 1), Some(Mid::from("5")));
        let later = later + GATHER;
        assert_eq!(session.changes(later).unwrap().stop, [Mid::from("5")]);
        session.offered(&offer(&[])).unwrap();
        session.answered(later);
        session.subscribe(later, 2, MediaKind::Video, label("TR_2"));
        assert_eq!(session.changes(later + GATHER).unwrap().start, [Mid::from("5")]);
        let sdp = "v=0\r\nm=video 9 X 96\r\na=mid:5\r\n".to_owned();
        let (_, sdp, _) = session.offered(&Offer { sdp, added: Vec::new() }).unwrap();
        assert!(sdp.contains("a=msid:PA_a|TR_2 TR_2\r\n"), "{sdp}");
    }

    #[test]
    fn an_offer_that_nobody_answers_is_made_again() {
        let now = SystemClock.monotonic();
        let mut session = Offering::default();
        session.subscribe(now, 1, MediaKind::Video, label("TR_1"));
        session.changes(now + GATHER).unwrap();
        session.offered(&offer(&["5"])).unwrap();
        let much_later = session.deadline().unwrap();
        let changes = session.changes(much_later).unwrap();
        assert_eq!(changes.add, [MediaKind::Video]);
        session.offered(&offer(&["6"])).unwrap();
        assert!(!session.expects(1), "too late");
        assert_eq!(session.answered(much_later), [(1, Mid::from("6"))]);
    }

    #[test]
    fn what_was_given_up_meanwhile_is_not_sent() {
        let now = SystemClock.monotonic();
        let mut session = Offering::default();
        session.subscribe(now, 1, MediaKind::Video, label("TR_1"));
        session.changes(now + GATHER).unwrap();
        session.offered(&offer(&["5"])).unwrap();
        session.unsubscribe(now + GATHER, 1);
        assert!(session.answered(now + GATHER).is_empty());
        assert!(session.deadline().is_some(), "the section is to be closed");
    }
}
