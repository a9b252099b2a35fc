use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

/// Why a message could not be read from JSON or written as such.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// The text is no JSON, or not of this message.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// The message is not one of ours.
    #[error("no such message: {0}")]
    Unknown(&'static str),
    /// The bytes between the two forms did not fit.
    #[error("{0}")]
    Decode(#[from] prost::DecodeError),
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(super::DESCRIPTION).unwrap_or_default())
}

pub(super) fn descriptor(name: &'static str) -> Result<prost_reflect::MessageDescriptor, JsonError> {
    pool().get_message_by_name(name).ok_or(JsonError::Unknown(name))
}

/// Reads the protobuf JSON form of the message `name` (`livekit.Room`); field names may be in either case, unknown ones are skipped.
pub(crate) fn from_json<M: Message + Default>(name: &'static str, text: &[u8]) -> Result<M, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor(name)?, &mut deserializer, &options)?;
    deserializer.end()?;
    Ok(M::decode(message.encode_to_vec().as_slice())?)
}

/// Writes the protobuf JSON form as LiveKit's servers do: names as in the description, and fields that are unset too.
pub(crate) fn to_json<M: Message>(name: &'static str, message: &M) -> Result<Vec<u8>, JsonError> {
    let message = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let mut serializer = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut serializer, &options)?;
    Ok(serializer.into_inner())
}

/// Writes the protobuf JSON form as LiveKit's webhooks do: names as JSON has them, and without fields that are unset.
pub(crate) fn to_short_json<M: Message>(name: &'static str, message: &M) -> Result<String, JsonError> {
    let message = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_string(&message)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CreateRoomRequest, ParticipantInfo, TrackInfo, TrackSource};

    #[test]
    fn json_has_the_names_and_numbers_of_protobuf() {
        let info = ParticipantInfo {
            sid: "PA_a".to_owned(),
            joined_at: 7,
            tracks: vec![TrackInfo { source: TrackSource::ScreenShare.into(), ..TrackInfo::default() }],
            ..ParticipantInfo::default()
        };
        let text = to_json("livekit.ParticipantInfo", &info).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["joined_at"], "7", "64-bit numbers are texts");
        assert_eq!(value["tracks"][0]["source"], "SCREEN_SHARE");
        assert_eq!(value["is_publisher"], false, "unset fields are written");
        assert_eq!(from_json::<ParticipantInfo>("livekit.ParticipantInfo", &text).unwrap(), info);
    }

    #[test]
    fn both_cases_are_read_and_what_is_unknown_is_skipped() {
        let text = br#"{"name":"a","emptyTimeout":3,"departure_timeout":4,"nodeId":"x"}"#;
        let request: CreateRoomRequest = from_json("livekit.CreateRoomRequest", text).unwrap();
        assert_eq!((request.empty_timeout, request.departure_timeout), (3, 4));
        assert!(from_json::<CreateRoomRequest>("livekit.CreateRoomRequest", b"{\"name\":1}").is_err());
        assert!(from_json::<CreateRoomRequest>("livekit.CreateRoomRequest", b"{} x").is_err());
    }
}
