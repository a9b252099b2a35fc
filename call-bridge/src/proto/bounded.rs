//! Messages take far more memory than bytes on the wire: an element of a list that is empty has two there, and hundreds once it is
//! decoded. So what a message of a stranger holds is counted before it is decoded.

use prost::{DecodeError, Message};
use prost_reflect::{Kind, MessageDescriptor};

use super::{json::descriptor, relay::each_field};

/// Texts, messages and members of lists in one message, those inside others included. The largest that clients send name some tracks of
/// everybody in a large room.
const MOST_ELEMENTS: usize = 4_096;

/// Why a message of a stranger cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is none, or not of this kind.
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    /// It holds more than anybody needs.
    #[error("the message has too many elements")]
    TooMany,
    /// The message is not one of ours.
    #[error("no such message: {0}")]
    Unknown(&'static str),
}

/// Reads a message of a stranger; `name` is that of its kind, such as `livekit.SignalRequest`.
pub(crate) fn read<M: Message + Default>(name: &'static str, bytes: &[u8]) -> Result<M, ReadError> {
    let kind = descriptor(name).map_err(|_| ReadError::Unknown(name))?;
    let mut left = MOST_ELEMENTS;
    count(&kind, bytes, &mut left)?;
    Ok(M::decode(bytes)?)
}

/// Takes the elements of a message from those that are left. No kind of message holds itself, so this does not go deep.
fn count(kind: &MessageDescriptor, message: &[u8], left: &mut usize) -> Result<(), ReadError> {
    each_field(message, |number, _, content| {
        // What we do not know is skipped when it is decoded.
        let Some(field) = kind.get_field(number) else { return Ok(()) };
        let elements = match (content, field.kind()) {
            (Some(_), Kind::Message(_) | Kind::String | Kind::Bytes) => 1,
            // Packed numbers have a byte each at least.
            (Some(packed), _) => packed.len(),
            (None, _) => usize::from(field.is_list()),
        };
        *left = left.checked_sub(elements).ok_or(ReadError::TooMany)?;
        match (content, field.kind()) {
            (Some(inner), Kind::Message(kind)) => count(&kind, inner, left),
            _ => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        AddTrackRequest, DataChannelReceiveState, JoinRequest, SignalRequest, SubscriptionPermission,
        SyncState, TrackPermission, TrackPublishedResponse, UpdateLocalAudioTrack, UpdateParticipantMetadata,
        UpdateSubscription, signal_request::Message as Request,
    };

    /// A message with so many elements, and of which kind they are.
    type Case = (&'static str, fn(usize) -> Request);

    fn is_read(message: Request) -> bool {
        let bytes = SignalRequest { message: Some(message) }.encode_to_vec();
        match read::<SignalRequest>("livekit.SignalRequest", &bytes) {
            Ok(read) => read.encode_to_vec() == bytes,
            Err(ReadError::TooMany) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn sids(many: usize) -> Vec<String> {
        vec![String::new(); many]
    }

    #[test]
    fn elements_are_counted_wherever_they_are() {
        let cases: [Case; 6] = [
            ("texts", |many| {
                Request::Subscription(UpdateSubscription { track_sids: sids(many), ..Default::default() })
            }),
            ("messages", |many| {
                let publish_tracks = vec![TrackPublishedResponse::default(); many];
                Request::SyncState(SyncState { publish_tracks, ..SyncState::default() })
            }),
            ("texts in messages", |many| {
                let admitted = TrackPermission { track_sids: sids(many / 10), ..Default::default() };
                let track_permissions = vec![admitted; 10];
                Request::SubscriptionPermission(SubscriptionPermission {
                    track_permissions,
                    ..Default::default()
                })
            }),
            ("numbers, packed", |many| {
                let features = vec![0; many];
                Request::UpdateAudioTrack(UpdateLocalAudioTrack { features, ..Default::default() })
            }),
            ("members of maps", |many| {
                // With a name and a value each.
                let attributes = (0..many / 3).map(|name| (name.to_string(), "value".to_owned()));
                let attributes = attributes.collect();
                Request::UpdateMetadata(UpdateParticipantMetadata { attributes, ..Default::default() })
            }),
            ("messages of numbers", |many| {
                let state = DataChannelReceiveState { last_seq: 7, ..Default::default() };
                let datachannel_receive_states = vec![state; many];
                Request::SyncState(SyncState { datachannel_receive_states, ..SyncState::default() })
            }),
        ];
        for (what, message) in cases {
            assert!(is_read(message(MOST_ELEMENTS - 100)), "{what}");
            assert!(!is_read(message(MOST_ELEMENTS + 100)), "{what}");
        }
    }

    #[test]
    fn numbers_that_are_not_packed_count_too() {
        // A feature of a track: field 17, a varint.
        let track = [0x88, 0x01, 0].repeat(MOST_ELEMENTS);
        assert!(read::<AddTrackRequest>("livekit.AddTrackRequest", &track).is_ok());
        let track = [0x88, 0x01, 0].repeat(MOST_ELEMENTS + 1);
        let refused = read::<AddTrackRequest>("livekit.AddTrackRequest", &track);
        assert!(matches!(refused, Err(ReadError::TooMany)), "{refused:?}");
    }

    #[test]
    fn long_texts_and_what_is_unknown_are_few() {
        let metadata = "\n\0".repeat(100_000);
        // A field that is not ours, many times.
        let unknown = [0xa2, 0x06, 0].repeat(MOST_ELEMENTS + 1);
        let bytes = JoinRequest { metadata: metadata.clone(), ..JoinRequest::default() }.encode_to_vec();
        let read = read::<JoinRequest>("livekit.JoinRequest", &[bytes, unknown].concat()).unwrap();
        assert_eq!(read.metadata, metadata);
    }
}
