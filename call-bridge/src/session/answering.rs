//! A peer connection on which the client makes all offers: it publishes in sections of its own, and what it subscribes to goes into
//! places that it offers (`/rtc/v1`). A publisher connection of `/rtc` is the same without places.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::sdp::{self, MediaLabel, Section, SectionKind};
use crate::{
    proto::MediaSectionsRequirement,
    transport::{MediaKind, Mid},
};

/// Subscriptions that come together are negotiated together.
const GATHER: Duration = Duration::from_millis(100);
/// After this time without an offer the client is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The places in a client's offers, and what is in them. `K` tells tracks apart.
#[derive(Debug)]
pub(crate) struct Answering<K> {
    places: Vec<Place<K>>,
    /// What is subscribed to and has no place yet, in order.
    waiting: Vec<(K, MediaKind, MediaLabel)>,
    /// When the client is to be asked for an offer.
    ask_at: Option<Instant>,
}

#[derive(Debug)]
struct Place<K> {
    mid: String,
    kind: MediaKind,
    /// The track whose stream goes there.
    track: Option<(K, MediaLabel)>,
    /// The client still believes that something goes there.
    stale: bool,
}

/// How an offer is to be answered.
#[derive(Debug)]
pub(crate) struct Plan<K> {
    /// All sections of the offer.
    pub(crate) sections: Vec<Section>,
    /// The offer as the transport is to see it.
    pub(crate) offer: String,
    /// Tracks that got a place now.
    pub(crate) placed: Vec<(K, Mid)>,
}

impl<K: Copy + PartialEq> Default for Answering<K> {
    fn default() -> Self {
        Self { places: Vec::new(), waiting: Vec::new(), ask_at: None }
    }
}

impl<K: Copy + PartialEq> Answering<K> {
    /// Wants a place for a track.
    pub(crate) fn subscribe(&mut self, now: Instant, track: K, kind: MediaKind, label: MediaLabel) {
        self.waiting.push((track, kind, label));
        self.ask(now);
    }

    /// Gives the place of a track up; answers its name if it had one.
    pub(crate) fn unsubscribe(&mut self, now: Instant, track: K) -> Option<Mid> {
        self.waiting.retain(|(other, ..)| *other != track);
        let holds = |place: &&mut Place<K>| place.track.as_ref().is_some_and(|(other, _)| *other == track);
        let place = self.places.iter_mut().find(holds)?;
        place.track = None;
        place.stale = true;
        let mid = Mid::from(place.mid.as_str());
        self.ask(now);
        Some(mid)
    }

    fn ask(&mut self, now: Instant) {
        self.ask_at.get_or_insert(now + GATHER);
    }

    /// Everything is negotiated anew, after the client has come back.
    pub(crate) fn renegotiate(&mut self, now: Instant) {
        self.ask(now);
    }

    /// When [`Self::requirement`] has something to say.
    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ask_at
    }

    /// What the client is to be asked for, if it is time: how many places its next offer must have beyond those of its last.
    pub(crate) fn requirement(&mut self, now: Instant) -> Option<MediaSectionsRequirement> {
        if self.ask_at.is_none_or(|at| at > now) {
            return None;
        }
        self.ask_at = Some(now + ASK_AGAIN);
        Some(MediaSectionsRequirement {
            num_audios: self.missing(MediaKind::Audio),
            num_videos: self.missing(MediaKind::Video),
        })
    }

    fn missing(&self, wanted: MediaKind) -> u32 {
        let waiting = self.waiting.iter().filter(|(_, kind, _)| *kind == wanted).count();
        let free = self.places.iter().filter(|place| place.kind == wanted && place.track.is_none()).count();
        u32::try_from(waiting.saturating_sub(free)).unwrap_or(u32::MAX)
    }

    /// Reads an offer and puts what waits into its places; `None` if it cannot be read.
    pub(crate) fn plan(&mut self, now: Instant, offer: &str) -> Option<Plan<K>> {
        let sections = sdp::sections(offer)?;
        self.find_places(&sections);
        let mut placed = Vec::new();
        for place in self.places.iter_mut().filter(|place| place.track.is_none()) {
            place.stale = false;
            let Some(next) = self.waiting.iter().position(|(_, kind, _)| *kind == place.kind) else {
                continue;
            };
            let (track, _, label) = self.waiting.remove(next);
            place.track = Some((track, label));
            placed.push((track, Mid::from(place.mid.as_str())));
        }
        self.ask_at = (!self.waiting.is_empty()).then_some(now + GATHER);
        let labels = self.labels();
        let offer = sdp::narrowed(offer, |mid| labels.contains_key(mid));
        Some(Plan { sections, offer, placed })
    }

    fn find_places(&mut self, sections: &[Section]) {
        for section in sections.iter().filter(|section| section.is_place()) {
            let SectionKind::Media(kind) = section.kind else { continue };
            if !self.places.iter().any(|place| place.mid == section.mid) {
                self.places.push(Place { mid: section.mid.clone(), kind, track: None, stale: false });
            }
        }
        // A place that is no longer one has lost its track.
        let is_place = |mid: &str| sections.iter().any(|section| section.mid == mid && section.is_place());
        let (kept, lost): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.places).into_iter().partition(|place| is_place(&place.mid));
        self.places = kept;
        for place in lost {
            self.waiting.extend(place.track.map(|(track, label)| (track, place.kind, label)));
        }
    }

    fn labels(&self) -> BTreeMap<String, MediaLabel> {
        let taken = |place: &Place<K>| Some((place.mid.clone(), place.track.as_ref()?.1.clone()));
        self.places.iter().filter_map(taken).collect()
    }

    /// The transport's answer as the client is to see it, and which track is in which section.
    pub(crate) fn finish(&self, answer: &str) -> (String, BTreeMap<String, String>) {
        let labels = self.labels();
        let tracks = labels.iter().map(|(mid, label)| (mid.clone(), label.track.clone())).collect();
        (sdp::labelled(answer, &labels), tracks)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use entente_environment::{Clock, SystemClock};

    use super::*;

    fn offer(sections: &[(&str, &str)]) -> String {
        let mut sdp = "v=0\r\n".to_owned();
        for (mid, (kind, direction)) in sections.iter().enumerate() {
            write!(sdp, "m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\na={direction}\r\n").unwrap();
        }
        sdp
    }

    fn label(track: &str) -> MediaLabel {
        MediaLabel { stream: "PA_a|camera".to_owned(), track: track.to_owned() }
    }

    fn placed(plan: &Plan<u8>) -> Vec<(u8, String)> {
        plan.placed.iter().map(|(track, mid)| (*track, mid.to_string())).collect()
    }

    #[test]
    fn tracks_get_the_places_that_are_offered_and_the_client_is_asked_for_the_rest() {
        let now = SystemClock.monotonic();
        let mut session = Answering::default();
        let first = offer(&[("audio", "recvonly"), ("video", "recvonly")]);
        assert!(session.plan(now, &first).unwrap().placed.is_empty());
        session.subscribe(now, 1, MediaKind::Audio, label("TR_1"));
        session.subscribe(now, 2, MediaKind::Video, label("TR_2"));
        session.subscribe(now, 3, MediaKind::Video, label("TR_3"));
        assert_eq!(session.requirement(now), None, "they are gathered");
        let later = session.deadline().unwrap();
        let requirement = session.requirement(later).unwrap();
        assert_eq!((requirement.num_audios, requirement.num_videos), (0, 1));
        assert_eq!(session.requirement(later), None, "asked once");

        let plan = session.plan(later, &first).unwrap();
        assert_eq!(placed(&plan), [(1, "0".to_owned()), (2, "1".to_owned())]);
        assert!(session.deadline().is_some(), "one is still missing");
        let second = offer(&[("audio", "recvonly"), ("video", "recvonly"), ("video", "recvonly")]);
        let plan = session.plan(later, &second).unwrap();
        assert_eq!(placed(&plan), [(3, "2".to_owned())]);
        assert_eq!(session.deadline(), None);
        let (_, tracks) = session.finish("v=0\r\n");
        assert_eq!(
            tracks.into_iter().collect::<Vec<_>>(),
            [
                ("0".to_owned(), "TR_1".to_owned()),
                ("1".to_owned(), "TR_2".to_owned()),
                ("2".to_owned(), "TR_3".to_owned()),
            ]
        );
    }

    #[test]
    fn a_place_is_closed_and_used_again() {
        let now = SystemClock.monotonic();
        let mut session = Answering::default();
        let places = offer(&[("video", "recvonly")]);
        session.subscribe(now, 1, MediaKind::Video, label("TR_1"));
        session.plan(now, &places).unwrap();
        assert_eq!(session.unsubscribe(now, 1), Some(Mid::from("0")));
        assert_eq!(session.unsubscribe(now, 1), None);
        let requirement = session.requirement(session.deadline().unwrap()).unwrap();
        assert_eq!(
            (requirement.num_audios, requirement.num_videos),
            (0, 0),
            "an offer is wanted nevertheless"
        );
        assert!(session.plan(now, &places).unwrap().offer.contains("a=inactive"));
        session.subscribe(now, 2, MediaKind::Video, label("TR_2"));
        assert_eq!(placed(&session.plan(now, &places).unwrap()), [(2, "0".to_owned())]);
    }

    #[test]
    fn what_the_client_sends_is_no_place() {
        let now = SystemClock.monotonic();
        let mut session = Answering::default();
        session.subscribe(now, 1, MediaKind::Video, label("TR_1"));
        let plan = session.plan(now, &offer(&[("video", "sendonly"), ("video", "inactive")])).unwrap();
        assert!(plan.placed.is_empty());
        assert!(session.plan(now, "nonsense").is_none());
    }
}
