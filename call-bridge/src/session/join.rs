//! How a client joins: by query parameters (`/rtc`), or by a message in one of them (`/rtc/v1`).

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, alphabet, engine};
use flate2::read::GzDecoder;
use prost::Message;
use serde::Deserialize;

use crate::proto::{
    AddTrackRequest, JoinRequest, ReadError, SessionDescription, SyncState, WrappedJoinRequest, read,
    wrapped_join_request,
};

/// The largest join request after unpacking, in bytes: its offer is most of it.
const MAXIMUM_JOIN_REQUEST: u64 = 1_024 * 1_024;
/// Tracks that somebody joins with, or comes back with: twice as many as a participant may have.
const MAXIMUM_TRACKS: usize = 64;

/// Why a join request cannot be read; always 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinError {
    /// There is none.
    #[error("join_request is missing")]
    Missing,
    /// It is not Base64 of the message.
    #[error("join_request cannot be read")]
    Malformed,
    /// It is too long when unpacked.
    #[error("join_request is too large")]
    TooLarge,
    /// It holds more than anybody needs.
    #[error("join_request has too many elements")]
    TooMany,
}

impl From<ReadError> for JoinError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooMany => Self::TooMany,
            ReadError::Malformed(_) | ReadError::Unknown(_) => Self::Malformed,
        }
    }
}

/// How many peer connections a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// One for everything, on which the client makes all offers: `/rtc/v1`.
    Single,
    /// One for publishing, one for subscribing: `/rtc`.
    Dual,
}

/// With what a client joins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JoinParameters {
    /// How many peer connections.
    pub(crate) path: Path,
    /// The participant as whom it wants to go on after its signalling connection broke.
    pub(crate) resume: Option<String>,
    /// Wants everything that is published.
    pub(crate) auto_subscribe: bool,
    /// Tells how large it shows each video.
    pub(crate) adaptive_stream: bool,
    /// May be left without a video for which there is no room.
    pub(crate) allow_pause: bool,
    /// Free texts of the application, which win over those of the token if it may change them.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The same.
    pub(crate) metadata: String,
    /// What it is going to publish.
    pub(crate) tracks: Vec<AddTrackRequest>,
    /// Its first offer.
    pub(crate) offer: Option<SessionDescription>,
    /// Where it stood.
    pub(crate) sync_state: Option<SyncState>,
}

/// The query of `/rtc`. What we do not act upon is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct V0Query {
    reconnect: Option<String>,
    sid: Option<String>,
    auto_subscribe: Option<String>,
    adaptive_stream: Option<String>,
    subscriber_allow_pause: Option<String>,
    attributes: Option<String>,
}

fn is_set(flag: Option<&str>, default: bool) -> bool {
    flag.map_or(default, |flag| matches!(flag, "1" | "true"))
}

impl From<V0Query> for JoinParameters {
    fn from(query: V0Query) -> Self {
        Self {
            path: Path::Dual,
            resume: query.sid.filter(|_| is_set(query.reconnect.as_deref(), false)),
            auto_subscribe: is_set(query.auto_subscribe.as_deref(), true),
            adaptive_stream: is_set(query.adaptive_stream.as_deref(), false),
            allow_pause: is_set(query.subscriber_allow_pause.as_deref(), true),
            // What cannot be read is left out, as LiveKit's servers do.
            attributes: query.attributes.as_deref().and_then(attributes).unwrap_or_default(),
            metadata: String::new(),
            tracks: Vec::new(),
            offer: None,
            sync_state: None,
        }
    }
}

/// Base64 of a JSON object of texts.
fn attributes(parameter: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_slice(&lenient_base64().decode(parameter).ok()?).ok()
}

impl JoinParameters {
    /// Reads the query parameter `join_request` of `/rtc/v1`.
    pub(crate) fn from_join_request(parameter: Option<&str>) -> Result<Self, JoinError> {
        let request = unpack(parameter.filter(|text| !text.is_empty()).ok_or(JoinError::Missing)?)?;
        let published = request.sync_state.as_ref().map_or(0, |state| state.publish_tracks.len());
        if request.add_track_requests.len().max(published) > MAXIMUM_TRACKS {
            return Err(JoinError::TooMany);
        }
        let settings = request.connection_settings.unwrap_or_default();
        Ok(Self {
            path: Path::Single,
            resume: Some(request.participant_sid).filter(|sid| request.reconnect && !sid.is_empty()),
            auto_subscribe: settings.auto_subscribe,
            adaptive_stream: settings.adaptive_stream,
            allow_pause: settings.subscriber_allow_pause.unwrap_or(true),
            attributes: request.participant_attributes,
            metadata: request.metadata,
            tracks: request.add_track_requests,
            offer: request.publisher_offer.filter(|offer| !offer.sdp.is_empty()),
            sync_state: request.sync_state,
        })
    }
}

/// For URLs, with padding or without.
fn lenient_base64() -> engine::GeneralPurpose {
    let lenient = engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    engine::GeneralPurpose::new(&alphabet::URL_SAFE, lenient)
}

fn unpack(parameter: &str) -> Result<JoinRequest, JoinError> {
    let wrapped = lenient_base64().decode(parameter).map_err(|_| JoinError::Malformed)?;
    let wrapped = WrappedJoinRequest::decode(wrapped.as_slice()).map_err(|_| JoinError::Malformed)?;
    let bytes = match wrapped.compression() {
        wrapped_join_request::Compression::None => wrapped.join_request,
        wrapped_join_request::Compression::Gzip => {
            let mut bytes = Vec::new();
            let mut limited = GzDecoder::new(wrapped.join_request.as_slice()).take(MAXIMUM_JOIN_REQUEST + 1);
            limited.read_to_end(&mut bytes).map_err(|_| JoinError::Malformed)?;
            bytes
        }
    };
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAXIMUM_JOIN_REQUEST) {
        return Err(JoinError::TooLarge);
    }
    Ok(read("livekit.JoinRequest", &bytes)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::proto::{ConnectionSettings, TrackPublishedResponse};

    fn wrapped(request: &[u8], gzip: bool) -> Vec<u8> {
        let mut wrapped = WrappedJoinRequest::default();
        if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(request).unwrap();
            wrapped.join_request = encoder.finish().unwrap();
            wrapped.set_compression(wrapped_join_request::Compression::Gzip);
        } else {
            wrapped.join_request = request.to_vec();
        }
        wrapped.encode_to_vec()
    }

    #[test]
    fn join_requests_are_read_packed_and_unpacked() {
        let settings = ConnectionSettings { auto_subscribe: true, ..ConnectionSettings::default() };
        let request = JoinRequest {
            connection_settings: Some(settings),
            reconnect: true,
            participant_sid: "PA_1".to_owned(),
            ..JoinRequest::default()
        };
        let bytes = request.encode_to_vec();
        for text in [URL_SAFE.encode(wrapped(&bytes, true)), URL_SAFE_NO_PAD.encode(wrapped(&bytes, false))] {
            let parameters = JoinParameters::from_join_request(Some(&text)).unwrap();
            assert_eq!(parameters.resume.as_deref(), Some("PA_1"));
            assert!(parameters.auto_subscribe && parameters.allow_pause && !parameters.adaptive_stream);
        }
    }

    #[test]
    fn a_small_request_does_not_unpack_into_a_large_one() {
        let bomb = URL_SAFE.encode(wrapped(&vec![0; 8 * 1_024 * 1_024], true));
        assert_eq!(JoinParameters::from_join_request(Some(&bomb)), Err(JoinError::TooLarge));
        assert_eq!(JoinParameters::from_join_request(Some("!")), Err(JoinError::Malformed));
        assert_eq!(JoinParameters::from_join_request(None), Err(JoinError::Missing));
    }

    #[test]
    fn a_small_request_does_not_decode_into_a_large_one() {
        // Half a million tracks in a megabyte, which is a kilobyte when packed; and as many in its state.
        let tracks = [0x2a, 0].repeat(512 * 1_024);
        let state = [&[0x52, 0x80, 0x80, 0x20][..], &[0x1a, 0].repeat(256 * 1_024)].concat();
        for request in [tracks, state] {
            let bomb = URL_SAFE.encode(wrapped(&request, true));
            assert!(bomb.len() < 4_096);
            assert_eq!(JoinParameters::from_join_request(Some(&bomb)), Err(JoinError::TooMany));
        }
    }

    #[test]
    fn tracks_are_few() {
        let joined = |added, published| {
            let sync_state = SyncState {
                publish_tracks: vec![TrackPublishedResponse::default(); published],
                ..SyncState::default()
            };
            let request = JoinRequest {
                add_track_requests: vec![AddTrackRequest::default(); added],
                sync_state: Some(sync_state),
                ..JoinRequest::default()
            };
            let text = URL_SAFE.encode(wrapped(&request.encode_to_vec(), false));
            JoinParameters::from_join_request(Some(&text)).map(|parameters| parameters.tracks.len())
        };
        assert_eq!(joined(MAXIMUM_TRACKS, MAXIMUM_TRACKS), Ok(MAXIMUM_TRACKS));
        assert_eq!(joined(MAXIMUM_TRACKS + 1, 0), Err(JoinError::TooMany));
        assert_eq!(joined(0, MAXIMUM_TRACKS + 1), Err(JoinError::TooMany));
    }

    #[test]
    fn queries_have_defaults() {
        let parameters = JoinParameters::from(V0Query::default());
        assert!(parameters.auto_subscribe && parameters.resume.is_none());
        let query = V0Query {
            sid: Some("PA_1".to_owned()),
            reconnect: Some("1".to_owned()),
            auto_subscribe: Some("0".to_owned()),
            attributes: Some(URL_SAFE.encode(r#"{"colour":"red"}"#)),
            ..V0Query::default()
        };
        let parameters = JoinParameters::from(query);
        assert_eq!(parameters.resume.as_deref(), Some("PA_1"));
        assert!(!parameters.auto_subscribe);
        assert_eq!(parameters.attributes, BTreeMap::from([("colour".to_owned(), "red".to_owned())]));
        let unreadable = V0Query { attributes: Some("e30=!".to_owned()), ..V0Query::default() };
        assert!(JoinParameters::from(unreadable).attributes.is_empty());
    }
}
