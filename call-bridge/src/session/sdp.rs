//! As much of session descriptions (RFC 8866) as negotiating takes beyond what the WebRTC stack does: which sections there are, and
//! what they are called.

use std::collections::{BTreeMap, BTreeSet};

use crate::transport::MediaKind;

/// Longer session descriptions are not read, in bytes. One with a hundred sections has about 400 kB.
pub(crate) const MAXIMUM_SDP: usize = 1_024 * 1_024;
/// More sections are not negotiated on one connection.
const MAXIMUM_SECTIONS: usize = 512;

/// What a section carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SectionKind {
    /// Media.
    Media(MediaKind),
    /// Data channels, or something we do not know.
    Other,
}

/// Which way media goes, as its describer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Both ways.
    SendReceive,
    /// The describer sends.
    SendOnly,
    /// The describer receives.
    ReceiveOnly,
    /// Neither.
    Inactive,
}

/// A section of a session description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// What it carries.
    pub(crate) kind: SectionKind,
    /// Its name.
    pub(crate) mid: String,
    /// Which way.
    pub(crate) direction: Direction,
    /// The stream and the track that it sends (RFC 8830).
    pub(crate) label: Option<MediaLabel>,
    /// The encodings that it sends, lowest first as clients list them (RFC 8853).
    pub(crate) rids: Vec<String>,
    /// Its port is 0 and it is bundled with none: it carries nothing any more.
    pub(crate) stopped: bool,
}

/// What a section of media is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaLabel {
    /// Streams of one label are played in step.
    pub(crate) stream: String,
    /// The track.
    pub(crate) track: String,
}

impl Section {
    /// Whether the describer sends.
    pub(crate) fn sends(&self) -> bool {
        !self.stopped && matches!(self.direction, Direction::SendOnly | Direction::SendReceive)
    }

    /// Whether the describer only receives: a place for what we send.
    pub(crate) fn is_place(&self) -> bool {
        !self.stopped && self.direction == Direction::ReceiveOnly
    }

    fn of_lines<'a>(lines: impl Iterator<Item = &'a str>, bundled: &[&str]) -> Self {
        let mut section = Self {
            kind: SectionKind::Other,
            mid: String::new(),
            direction: Direction::SendReceive,
            label: None,
            rids: Vec::new(),
            stopped: false,
        };
        for line in lines {
            section.read(line);
        }
        if bundled.contains(&section.mid.as_str()) {
            section.stopped = false;
        }
        section
    }

    fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(media) = line.strip_prefix("m=") {
            let mut words = media.split(' ');
            self.kind = match words.next() {
                Some("audio") => SectionKind::Media(MediaKind::Audio),
                Some("video") => SectionKind::Media(MediaKind::Video),
                _ => SectionKind::Other,
            };
            self.stopped = words.next() == Some("0");
            return;
        }
        let Some(attribute) = line.strip_prefix("a=") else { return };
        match attribute.split_once(':').unwrap_or((attribute, "")) {
            ("mid", mid) => mid.clone_into(&mut self.mid),
            ("sendrecv", _) => self.direction = Direction::SendReceive,
            ("sendonly", _) => self.direction = Direction::SendOnly,
            ("recvonly", _) => self.direction = Direction::ReceiveOnly,
            ("inactive", _) => self.direction = Direction::Inactive,
            ("msid", msid) => {
                let (stream, track) = msid.split_once(' ').unwrap_or((msid, ""));
                self.label = Some(MediaLabel { stream: stream.to_owned(), track: track.trim().to_owned() });
            }
            ("simulcast", simulcast) => {
                let layers = simulcast.split_once("send ").map_or("", |(_, layers)| layers);
                let layers = layers.split(' ').next().unwrap_or("");
                // Paused ones begin with a tilde; alternatives follow a comma.
                let first =
                    |layer: &str| layer.split(',').next().unwrap_or("").trim_start_matches('~').to_owned();
                self.rids = layers.split(';').map(first).filter(|rid| !rid.is_empty()).collect();
            }
            _ => {}
        }
    }
}

/// The sections of a session description, in their order; `None` if it is too large or has none.
pub(crate) fn sections(sdp: &str) -> Option<Vec<Section>> {
    if sdp.len() > MAXIMUM_SDP {
        return None;
    }
    let (session, media) = split(sdp);
    let bundled = session.lines().find_map(|line| line.strip_prefix("a=group:BUNDLE")).unwrap_or("");
    let bundled: Vec<&str> = bundled.split_whitespace().collect();
    let media: Vec<&str> = media.collect();
    let fits = !media.is_empty() && media.len() <= MAXIMUM_SECTIONS;
    fits.then(|| media.into_iter().map(|section| Section::of_lines(section.lines(), &bundled)).collect())
}

/// An offer without candidates, which we need not know, and with those of its places closed that `keep` does not name.
pub(crate) fn narrowed(offer: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut output = String::with_capacity(offer.len());
    rewrite(offer, &mut output, |section, line, output| {
        if line.starts_with("a=candidate:") || line.starts_with("a=end-of-candidates") {
            return;
        }
        let closed = line == "a=recvonly" && section.is_some_and(|section| !keep(&section.mid));
        put(output, if closed { "a=inactive" } else { line });
    });
    output
}

/// A description of ours in which the sections of `labels`, by their names, say what they carry, and no other does.
pub(crate) fn labelled(sdp: &str, labels: &BTreeMap<String, MediaLabel>) -> String {
    let mut output = String::with_capacity(sdp.len());
    rewrite(sdp, &mut output, |section, line, output| {
        let label = section.and_then(|section| labels.get(&section.mid));
        let is_stream = line.starts_with("a=ssrc:");
        let names_stream =
            is_stream && line.split_once(' ').is_some_and(|(_, rest)| rest.starts_with("msid:"));
        if line.starts_with("a=msid:") || names_stream {
            return;
        }
        match label {
            None if is_stream || line.starts_with("a=ssrc-group:") => {}
            None => put(output, line),
            Some(label) => {
                put(output, line);
                if let Some(ssrc) = line.strip_prefix("a=ssrc:").and_then(|rest| rest.split(' ').next())
                    && line.contains(" cname:")
                {
                    put(output, &format!("a=ssrc:{ssrc} msid:{} {}", label.stream, label.track));
                }
                if line.starts_with("a=mid:") {
                    put(output, &format!("a=msid:{} {}", label.stream, label.track));
                }
            }
        }
    });
    output
}

fn put(output: &mut String, line: &str) {
    output.push_str(line);
    output.push_str("\r\n");
}

/// An answer by which sound is sent with earlier packets in it (RFC 2198) only in the sections that `redundant` names: clients send what
/// comes first in the list. They may receive it everywhere.
pub(crate) fn with_plain_sound(answer: &str, redundant: impl Fn(&str) -> bool) -> String {
    let wrapping = |line: &str| {
        let (payload_type, name) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
        name.starts_with("red/").then(|| payload_type.to_owned())
    };
    let wrapping: BTreeSet<String> = answer.lines().filter_map(wrapping).collect();
    let mut output = String::with_capacity(answer.len());
    rewrite(answer, &mut output, |section, line, output| {
        let is_sound = line.starts_with("m=audio ");
        if !is_sound || section.is_none_or(|section| redundant(&section.mid)) {
            return put(output, line);
        }
        // Before the payload types are the kind, the port and the protocol.
        let words: Vec<&str> = line.split(' ').collect();
        let (before, types) = words.split_at(words.len().min(3));
        let (last, first): (Vec<&str>, Vec<&str>) = types.iter().partition(|one| wrapping.contains(**one));
        put(output, &[before, &first, &last].concat().join(" "));
    });
    output
}

/// Calls `each` with every line and the section it is in.
fn rewrite(sdp: &str, output: &mut String, each: impl Fn(Option<&Section>, &str, &mut String)) {
    let (session, media) = split(sdp);
    for line in session.lines() {
        each(None, line.trim_end(), output);
    }
    for section in media {
        let read = Section::of_lines(section.lines(), &[]);
        for line in section.lines() {
            each(Some(&read), line.trim_end(), output);
        }
    }
}

/// What stands before the first section, and each section.
fn split(sdp: &str) -> (&str, impl Iterator<Item = &str>) {
    let first = if sdp.starts_with("m=") { Some(0) } else { sdp.find("\nm=").map(|at| at + 1) };
    let (session, mut rest) = sdp.split_at(first.unwrap_or(sdp.len()));
    let sections = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (section, following) = rest.split_at(rest.find("\nm=").map_or(rest.len(), |at| at + 1));
        rest = following;
        Some(section)
    });
    (session, sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\na=sctp-port:5000\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=candidate:1 1 udp 1 x.local 5 typ host\r\na=recvonly\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=msid:stream camera-1\r\na=sendonly\r\n\
        a=rid:q send\r\na=simulcast:send q;~h,x;f\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:3\r\na=sendonly\r\n";

    #[test]
    fn sections_are_read() {
        let sections = sections(OFFER).unwrap();
        let [data, audio, video, stopped] = &sections[..] else { panic!("{sections:?}") };
        assert_eq!((data.kind, data.mid.as_str()), (SectionKind::Other, "0"));
        assert!(audio.is_place() && !audio.sends());
        assert_eq!(video.kind, SectionKind::Media(MediaKind::Video));
        assert!(video.sends(), "port 0 but bundled");
        assert_eq!(video.label.as_ref().unwrap().track, "camera-1");
        assert_eq!(video.rids, ["q", "h", "f"]);
        assert!(!stopped.sends());
        assert_eq!(super::sections("v=0\r\n"), None);
    }

    #[test]
    fn places_are_closed_and_candidates_dropped() {
        let narrow = narrowed(OFFER, |_| false);
        assert!(narrow.contains("a=mid:1\r\na=inactive\r\n"), "{narrow}");
        assert!(!narrow.contains("candidate"));
        assert!(narrowed(OFFER, |mid| mid == "1").contains("a=recvonly"));
        assert_eq!(narrow.matches("m=").count(), 4);
    }

    #[test]
    fn sound_is_sent_plainly_but_where_it_may_be_redundant() {
        let section = |mid: u8, types: &str| {
            format!(
                "m=audio 63 X {types}\r\na=mid:{mid}\r\na=rtpmap:63 red/48000/2\r\na=rtpmap:111 opus/48000/2\r\n"
            )
        };
        let answer = |first: &str| format!("v=0\r\n{}{}", section(1, first), section(2, "63 111"));
        assert_eq!(with_plain_sound(&answer("63 111 0"), |mid| mid == "2"), answer("111 0 63"));
        let without = "v=0\r\nm=audio 9 X 111 63\r\na=mid:1\r\nm=video 9 X 63\r\na=mid:2\r\n";
        assert_eq!(with_plain_sound(without, |_| false), without);
    }

    #[test]
    fn only_named_sections_say_what_they_carry() {
        let answer = "v=0\r\nm=audio 9 X 111\r\na=mid:1\r\na=msid:a b\r\na=ssrc:5 cname:c\r\na=ssrc:5 msid:a b\r\n\
            m=video 9 X 96\r\na=mid:2\r\na=msid:a c\r\na=ssrc:6 cname:d\r\na=ssrc-group:FID 6 7\r\n";
        let label = MediaLabel { stream: "PA_x|camera".to_owned(), track: "TR_y".to_owned() };
        let labelled = labelled(answer, &BTreeMap::from([("1".to_owned(), label)]));
        let expected = "v=0\r\nm=audio 9 X 111\r\na=mid:1\r\na=msid:PA_x|camera TR_y\r\na=ssrc:5 cname:c\r\n\
            a=ssrc:5 msid:PA_x|camera TR_y\r\nm=video 9 X 96\r\na=mid:2\r\n";
        assert_eq!(labelled, expected);
    }
}
