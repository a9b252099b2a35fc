//! Data packets are relayed as they came, with the sender that we know. They are edited as bytes: a decoded packet would lose the
//! kinds of payload that `livekit.proto` does not list.

use prost::{
    DecodeError,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field},
};

const KIND: u32 = 1;
const USER: u32 = 2;
const IDENTITY: u32 = 4;
const SID: u32 = 17;
/// In `UserPacket`.
const USER_SID: u32 = 1;
const USER_IDENTITY: u32 = 5;

/// What a relayed packet says of its sender and its channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataHeader<'a> {
    /// `DataPacket.Kind`.
    pub(crate) kind: i32,
    /// Of the participant who sent it.
    pub(crate) sid: &'a str,
    /// Of the participant who sent it.
    pub(crate) identity: &'a str,
}

/// The packet with its true sender and kind instead of those that it claims.
pub(crate) fn relayed(packet: &[u8], header: DataHeader<'_>) -> Result<Vec<u8>, DecodeError> {
    let mut output = Vec::with_capacity(packet.len() + header.sid.len() + header.identity.len() + 16);
    if let Ok(kind @ 1..) = u64::try_from(header.kind) {
        encode_key(KIND, WireType::Varint, &mut output);
        encode_varint(kind, &mut output);
    }
    put_text(IDENTITY, header.identity, &mut output);
    put_text(SID, header.sid, &mut output);
    each_field::<DecodeError>(packet, |field, whole, content| {
        match (field, content) {
            (KIND | IDENTITY | SID, _) => {}
            (USER, Some(user)) => put_bytes(USER, &relayed_user(user, header)?, &mut output),
            _ => output.extend_from_slice(whole),
        }
        Ok(())
    })?;
    Ok(output)
}

fn relayed_user(user: &[u8], header: DataHeader<'_>) -> Result<Vec<u8>, DecodeError> {
    let mut output = Vec::with_capacity(user.len() + header.sid.len() + header.identity.len() + 8);
    put_text(USER_SID, header.sid, &mut output);
    put_text(USER_IDENTITY, header.identity, &mut output);
    each_field::<DecodeError>(user, |field, whole, _| {
        if field != USER_SID && field != USER_IDENTITY {
            output.extend_from_slice(whole);
        }
        Ok(())
    })?;
    Ok(output)
}

/// Calls `each` with a field's number, all its bytes, and for a length-delimited one its content.
pub(super) fn each_field<'a, E: From<DecodeError>>(
    message: &'a [u8],
    mut each: impl FnMut(u32, &'a [u8], Option<&'a [u8]>) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = message;
    while rest.has_remaining() {
        let start = rest;
        let (field, wire_type) = decode_key(&mut rest)?;
        let mut value = rest;
        skip_field(wire_type, field, &mut rest, DecodeContext::default())?;
        let whole = start.get(..start.len() - rest.len()).unwrap_or_default();
        let content = if wire_type == WireType::LengthDelimited {
            prost::encoding::decode_varint(&mut value)?;
            value.get(..value.len() - rest.len())
        } else {
            None
        };
        each(field, whole, content)?;
    }
    Ok(())
}

fn put_text(field: u32, text: &str, output: &mut Vec<u8>) {
    put_bytes(field, text.as_bytes(), output);
}

fn put_bytes(field: u32, bytes: &[u8], output: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, output);
    encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), output);
    output.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::{DataPacket, UserPacket};

    const HEADER: DataHeader<'_> = DataHeader { kind: 1, sid: "PA_real", identity: "@real" };

    #[test]
    fn the_sender_is_ours_to_say_and_the_rest_stays() {
        let packet = DataPacket {
            participant_identity: "@forged".to_owned(),
            participant_sid: "PA_forged".to_owned(),
            sequence: 9,
            destination_identities: vec!["@bob".to_owned()],
            user: Some(UserPacket {
                participant_sid: "PA_forged".to_owned(),
                participant_identity: "@forged".to_owned(),
                payload: b"hello".to_vec(),
                ..UserPacket::default()
            }),
            ..DataPacket::default()
        };
        let relayed = relayed(&packet.encode_to_vec(), HEADER).unwrap();
        let read = DataPacket::decode(relayed.as_slice()).unwrap();
        let user = read.user.unwrap();
        assert_eq!((read.participant_sid.as_str(), read.participant_identity.as_str()), ("PA_real", "@real"));
        assert_eq!((user.participant_sid.as_str(), user.participant_identity.as_str()), ("PA_real", "@real"));
        assert_eq!((read.kind, read.sequence, user.payload.as_slice()), (1, 9, b"hello".as_slice()));
        assert_eq!(read.destination_identities, ["@bob"]);
    }

    #[test]
    fn payloads_that_we_do_not_know_are_kept() {
        let mut packet = Vec::new();
        put_bytes(18, b"sealed", &mut packet);
        let relayed = relayed(&packet, HEADER).unwrap();
        assert!(relayed.ends_with(&packet), "{relayed:?}");
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert!(relayed(&[0x12, 0x7f, 1], HEADER).is_err());
        assert!(relayed(&[0xff], HEADER).is_err());
    }
}
