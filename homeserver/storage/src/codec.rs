//! The order-preserving key codec: encoded keys compare bytewise as their values do, and a tuple's leading parts are a
//! prefix of the whole.
//!
//! | part | encoding |
//! |---|---|
//! | `u8`, `u16`, `u32`, `u64` | big endian |
//! | `i64` | big endian with the sign bit flipped |
//! | `bool` | one byte |
//! | `String`, `Vec<u8>` | `0x00` written as `01 01`, `0x01` as `01 02`, ended by `0x00` |
//! | `[u8; N]` | as it is |
//! | [`LogPosition`] | writer (2 bytes), sequence (8 bytes), big endian |
//! | tuples | their parts, one after the other |

use crate::{
    LogPosition,
    position::{STAMP_LENGTH, WriterId},
};

const TERMINATOR: u8 = 0x00;
const ESCAPE: u8 = 0x01;
const ESCAPED_TERMINATOR: u8 = 0x01;
const ESCAPED_ESCAPE: u8 = 0x02;

/// Collects an encoded key, and remembers where in it the commit's own position belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyWriter {
    bytes: Vec<u8>,
    stamp_at: Option<usize>,
}

impl KeyWriter {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn escaped(&mut self, bytes: &[u8]) {
        self.bytes.reserve(bytes.len() + 1);
        for &byte in bytes {
            match byte {
                TERMINATOR => self.bytes.extend_from_slice(&[ESCAPE, ESCAPED_TERMINATOR]),
                ESCAPE => self.bytes.extend_from_slice(&[ESCAPE, ESCAPED_ESCAPE]),
                other => self.bytes.push(other),
            }
        }
        self.bytes.push(TERMINATOR);
    }

    /// The encoded bytes, and where in them the commit's position is to be filled in, if anywhere.
    pub fn finish(self) -> (Vec<u8>, Option<usize>) {
        (self.bytes, self.stamp_at)
    }
}

/// Reads the parts of an encoded key in their order.
#[derive(Clone, Debug)]
pub struct KeyReader<'a> {
    rest: &'a [u8],
}

/// An encoded key is shorter, longer or other than its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key does not have the shape of its keyspace")]
pub struct KeyError;

impl<'a> KeyReader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(KeyError)?;
        self.rest = tail;
        Ok(*head)
    }

    fn escaped(&mut self) -> Result<Vec<u8>, KeyError> {
        let mut bytes = Vec::new();
        let mut encoded = self.rest.iter();
        loop {
            match *encoded.next().ok_or(KeyError)? {
                TERMINATOR => break,
                ESCAPE => match *encoded.next().ok_or(KeyError)? {
                    ESCAPED_TERMINATOR => bytes.push(TERMINATOR),
                    ESCAPED_ESCAPE => bytes.push(ESCAPE),
                    _ => return Err(KeyError),
                },
                other => bytes.push(other),
            }
        }
        self.rest = encoded.as_slice();
        Ok(bytes)
    }

    fn end(&self) -> Result<(), KeyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(KeyError) }
    }
}

/// A type whose encoding keeps its order. Implemented for the parts in the table above and for tuples of them.
pub trait Key: Sized {
    /// Appends the encoding.
    fn encode(&self, writer: &mut KeyWriter);

    /// Reads one value back.
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError>;

    /// Reads a whole key, and refuses trailing bytes.
    fn decode_all(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut reader = KeyReader::new(bytes);
        let key = Self::decode(&mut reader)?;
        reader.end()?;
        Ok(key)
    }
}

/// Something that encodes as a `K` does, so that a look-up by `&str` needs no `String`.
pub trait EncodesAs<K> {
    /// Appends the encoding that the equal `K` would have.
    fn encode_as(&self, writer: &mut KeyWriter);
}

/// Some leading parts of the tuple `K`; `()` stands for none, and so for the whole keyspace.
pub trait PrefixOf<K> {
    /// Appends the encoding of the leading parts.
    fn encode_prefix(&self, writer: &mut KeyWriter);
}

impl<K: Key> EncodesAs<K> for &K {
    fn encode_as(&self, writer: &mut KeyWriter) {
        (*self).encode(writer);
    }
}

impl<K> PrefixOf<K> for () {
    fn encode_prefix(&self, _: &mut KeyWriter) {}
}

macro_rules! integer_keys {
    ($($integer:ty),+) => {$(
        impl Key for $integer {
            fn encode(&self, writer: &mut KeyWriter) {
                writer.fixed(&self.to_be_bytes());
            }

            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
                reader.fixed().map(Self::from_be_bytes)
            }
        }

        impl EncodesAs<$integer> for $integer {
            fn encode_as(&self, writer: &mut KeyWriter) {
                self.encode(writer);
            }
        }
    )+};
}

integer_keys!(u8, u16, u32, u64);

impl Key for i64 {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.fixed(&(self.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.fixed().map(|bytes| (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
    }
}

impl EncodesAs<i64> for i64 {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

impl Key for bool {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.fixed(&[u8::from(*self)]);
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        match reader.fixed()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(KeyError),
        }
    }
}

impl EncodesAs<bool> for bool {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

impl Key for String {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.escaped(self.as_bytes());
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        Self::from_utf8(reader.escaped()?).map_err(|_| KeyError)
    }
}

impl EncodesAs<String> for String {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

impl EncodesAs<String> for &str {
    fn encode_as(&self, writer: &mut KeyWriter) {
        writer.escaped(self.as_bytes());
    }
}

impl Key for Vec<u8> {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.escaped(self);
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.escaped()
    }
}

impl EncodesAs<Vec<u8>> for &[u8] {
    fn encode_as(&self, writer: &mut KeyWriter) {
        writer.escaped(self);
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.fixed(self);
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.fixed()
    }
}

impl<const N: usize> EncodesAs<[u8; N]> for [u8; N] {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

impl Key for LogPosition {
    fn encode(&self, writer: &mut KeyWriter) {
        if *self == Self::AT_COMMIT {
            writer.stamp_at = Some(writer.bytes.len());
        }
        writer.fixed(&self.to_stamp());
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.fixed::<STAMP_LENGTH>().map(Self::from_stamp)
    }
}

impl EncodesAs<LogPosition> for LogPosition {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

impl Key for WriterId {
    fn encode(&self, writer: &mut KeyWriter) {
        self.0.encode(writer);
    }

    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        u16::decode(reader).map(Self)
    }
}

impl EncodesAs<WriterId> for WriterId {
    fn encode_as(&self, writer: &mut KeyWriter) {
        self.encode(writer);
    }
}

macro_rules! tuple_keys {
    ($($part:ident $borrowed:ident $index:tt),+) => {
        impl<$($part: Key),+> Key for ($($part,)+) {
            fn encode(&self, writer: &mut KeyWriter) {
                $(self.$index.encode(writer);)+
            }

            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
                Ok(($($part::decode(reader)?,)+))
            }
        }

        impl<$($part,)+ $($borrowed: EncodesAs<$part>),+> EncodesAs<($($part,)+)> for ($($borrowed,)+) {
            fn encode_as(&self, writer: &mut KeyWriter) {
                $(self.$index.encode_as(writer);)+
            }
        }
    };
}

tuple_keys!(A BorrowedA 0);
tuple_keys!(A BorrowedA 0, B BorrowedB 1);
tuple_keys!(A BorrowedA 0, B BorrowedB 1, C BorrowedC 2);
tuple_keys!(A BorrowedA 0, B BorrowedB 1, C BorrowedC 2, D BorrowedD 3);
tuple_keys!(A BorrowedA 0, B BorrowedB 1, C BorrowedC 2, D BorrowedD 3, E BorrowedE 4);

macro_rules! tuple_prefixes {
    (($($part:ident $borrowed:ident $index:tt),+), ($($tail:ident),+)) => {
        impl<$($part,)+ $($tail,)+ $($borrowed: EncodesAs<$part>),+> PrefixOf<($($part,)+ $($tail,)+)>
            for ($($borrowed,)+)
        {
            fn encode_prefix(&self, writer: &mut KeyWriter) {
                $(self.$index.encode_as(writer);)+
            }
        }
    };
}

tuple_prefixes!((A BorrowedA 0), (B));
tuple_prefixes!((A BorrowedA 0), (B, C));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1), (C));
tuple_prefixes!((A BorrowedA 0), (B, C, D));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1), (C, D));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1, C BorrowedC 2), (D));
tuple_prefixes!((A BorrowedA 0), (B, C, D, E));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1), (C, D, E));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1, C BorrowedC 2), (D, E));
tuple_prefixes!((A BorrowedA 0, B BorrowedB 1, C BorrowedC 2, D BorrowedD 3), (E));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded<K: Key>(key: &K) -> Vec<u8> {
        let mut writer = KeyWriter::new();
        key.encode(&mut writer);
        writer.finish().0
    }

    proptest! {
        #[test]
        fn encoding_keeps_the_order_of_tuples(
            left: (Vec<u8>, i64, String), right: (Vec<u8>, i64, String)
        ) {
            prop_assert_eq!(encoded(&left).cmp(&encoded(&right)), left.cmp(&right));
        }

        #[test]
        fn decoding_gives_the_key_back(key: (String, (Vec<u8>, u16), bool, i64, [u8; 4])) {
            prop_assert_eq!(<(String, (Vec<u8>, u16), bool, i64, [u8; 4])>::decode_all(&encoded(&key)), Ok(key));
        }

        #[test]
        fn leading_parts_are_a_prefix(key: (String, u64, Vec<u8>)) {
            let mut prefix = KeyWriter::new();
            PrefixOf::<(String, u64, Vec<u8>)>::encode_prefix(&(key.0.as_str(), key.1), &mut prefix);
            prop_assert!(encoded(&key).starts_with(&prefix.finish().0));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(key) = <(String, LogPosition, Vec<u8>)>::decode_all(&bytes) {
                prop_assert_eq!(encoded(&key), bytes);
            }
        }
    }

    #[test]
    fn a_prefix_string_does_not_match_a_longer_one() {
        let mut prefix = KeyWriter::new();
        PrefixOf::<(String, u64)>::encode_prefix(&("ab",), &mut prefix);
        assert!(!encoded(&(String::from("abc"), 1_u64)).starts_with(&prefix.finish().0));
    }

    #[test]
    fn a_position_at_commit_is_remembered() {
        let mut writer = KeyWriter::new();
        ("room", LogPosition::AT_COMMIT).encode_as_tuple(&mut writer);
        assert_eq!(writer.finish().1, Some(5));
    }

    trait EncodeAsTuple {
        fn encode_as_tuple(&self, writer: &mut KeyWriter);
    }

    impl EncodeAsTuple for (&str, LogPosition) {
        fn encode_as_tuple(&self, writer: &mut KeyWriter) {
            EncodesAs::<(String, LogPosition)>::encode_as(self, writer);
        }
    }
}
