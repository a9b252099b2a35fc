use bytes::{Buf, Bytes, BytesMut};

/// The cookie of every STUN message (RFC 8489, section 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;
/// A datagram can't be longer.
pub(crate) const LONGEST: usize = STUN_HEADER + u16::MAX as usize;

/// Whether a connection that begins with this byte speaks STUN: neither HTTP nor TLS begins so.
pub fn begins_stun(first: u8) -> bool {
    first < 4
}

/// Whether a datagram is a STUN message, by its first bytes.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| begins_stun(*first)) && datagram.get(4..8) == Some(&COOKIE)
}

/// What comes in a stream is none of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream carries neither STUN messages nor channel data")]
pub(crate) struct NotFramed;

/// Refuses a stream that begins with something else than a STUN message: nobody has a channel yet. HTTP would look like one.
pub(crate) fn check_beginning(buffer: &[u8]) -> Result<(), NotFramed> {
    if buffer.first().is_none_or(|first| begins_stun(*first)) { Ok(()) } else { Err(NotFramed) }
}

/// Takes the first whole message out of what came in a stream (RFC 8656, sections 3.7 and 12.5); `None`: more has to come.
pub(crate) fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, NotFramed> {
    let [first, _, high, low, ..] = buffer[..] else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (message, padded) = match first {
        0..=3 => (STUN_HEADER + length, STUN_HEADER + length),
        0x40..=0x7F => (CHANNEL_HEADER + length, CHANNEL_HEADER + length.next_multiple_of(4)),
        _ => return Err(NotFramed),
    };
    if first < 4 && buffer.get(4..8).is_some_and(|cookie| cookie != COOKIE) {
        return Err(NotFramed);
    }
    if buffer.len() < padded {
        buffer.reserve(padded - buffer.len());
        return Ok(None);
    }
    let found = buffer.split_to(message).freeze();
    buffer.advance(padded - message);
    Ok(Some(found))
}

/// The zeros that follow a message in a stream: channel data ends at a multiple of four bytes.
pub(crate) fn padding(message: &[u8]) -> &'static [u8] {
    let missing = message.len().next_multiple_of(4) - message.len();
    &[0; 3][..missing]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stun(length: usize) -> Vec<u8> {
        let mut message = vec![0, 1];
        message.extend(u16::try_from(length).unwrap().to_be_bytes());
        message.extend(COOKIE);
        message.resize(STUN_HEADER + length, 7);
        message
    }

    fn channel(length: usize) -> Vec<u8> {
        let mut message = vec![0x40, 0];
        message.extend(u16::try_from(length).unwrap().to_be_bytes());
        message.resize(CHANNEL_HEADER + length, 9);
        message
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(lengths in prop::collection::vec((any::<bool>(), 0_usize..300), 0..10), step in 1_usize..50) {
            let messages: Vec<Vec<u8>> = lengths
                .into_iter()
                .map(|(is_stun, length)| if is_stun { stun(length / 4 * 4) } else { channel(length) })
                .collect();
            let stream: Vec<u8> = messages.iter().flat_map(|message| [message, padding(message)].concat()).collect();
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(message) = split(&mut buffer).unwrap() {
                    found.push(message.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn whatever_comes_is_bounded(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&stream[..]);
            while let Ok(Some(message)) = split(&mut buffer) {
                prop_assert!(!message.is_empty() && message.len() <= LONGEST);
            }
        }
    }

    #[test]
    fn other_protocols_are_told_apart() {
        for other in [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0", &[0x80; 8]] {
            assert!(!begins_stun(other[0]));
        }
        for other in [&b"\x16\x03\x01\x02\x00"[..], &[0x80; 8]] {
            assert_eq!(split(&mut BytesMut::from(other)), Err(NotFramed));
        }
        assert_eq!(split(&mut BytesMut::from(&[0, 1, 0, 0, 1, 2, 3, 4][..])), Err(NotFramed), "no cookie");
        assert!(is_stun(&stun(0)) && !is_stun(&channel(16)) && !is_stun(&[]));
    }
}
