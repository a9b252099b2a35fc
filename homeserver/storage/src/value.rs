//! Value codecs: what a keyspace's rows hold.

use bytes::Bytes;

use crate::{LogPosition, position::STAMP_LENGTH};

/// A type that is stored as the value of a row.
///
/// Record types derive `minicbor::Encode` and `minicbor::Decode` with numbered fields and say so with
/// [`cbor_value!`](crate::cbor_value): a field that is added later with a new number and an `Option` type needs no migration.
/// [`Bytes`] is stored as it is, for what is canonical already.
pub trait Value: Sized {
    /// The stored bytes.
    fn encode(&self) -> Bytes;

    /// Reads stored bytes back. The error says in words what did not fit.
    fn decode(bytes: &Bytes) -> Result<Self, String>;

    /// Where in the stored bytes the commit's position is to be filled in, if anywhere.
    fn stamp_at(&self) -> Option<usize> {
        None
    }
}

impl Value for Bytes {
    fn encode(&self) -> Bytes {
        self.clone()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        Ok(bytes.clone())
    }
}

/// Rows whose presence is all they say.
impl Value for () {
    fn encode(&self) -> Bytes {
        Bytes::new()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        if bytes.is_empty() { Ok(()) } else { Err(format!("{} bytes where none belong", bytes.len())) }
    }
}

impl Value for u64 {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(&self.to_be_bytes())
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let bytes = bytes.as_ref().try_into().map_err(|_| format!("{} bytes where 8 belong", bytes.len()))?;
        Ok(Self::from_be_bytes(bytes))
    }
}

impl Value for String {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        Self::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
    }
}

/// A value together with the log position of the commit that wrote it.
///
/// Write it with [`LogPosition::AT_COMMIT`]; the position is filled in when the transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped<V> {
    /// The position of the commit that wrote the row.
    pub position: LogPosition,
    /// The value itself.
    pub value: V,
}

impl<V: Value> Value for Stamped<V> {
    fn encode(&self) -> Bytes {
        let mut bytes = self.position.to_stamp().to_vec();
        bytes.extend_from_slice(&self.value.encode());
        bytes.into()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let (stamp, _) = bytes.split_first_chunk::<STAMP_LENGTH>().ok_or("too short for a position")?;
        let position = LogPosition::from_stamp(*stamp);
        let value = V::decode(&bytes.slice(STAMP_LENGTH..))?;
        Ok(Self { position, value })
    }

    fn stamp_at(&self) -> Option<usize> {
        (self.position == LogPosition::AT_COMMIT).then_some(0)
    }
}

/// Encodes a record as CBOR. Used by [`cbor_value!`](crate::cbor_value).
///
/// # Panics
///
/// Never for derived encoders: writing to memory cannot fail.
pub fn to_cbor<T: minicbor::Encode<()>>(record: &T) -> Bytes {
    minicbor::to_vec(record).expect("a derived encoder does not fail when it writes to memory").into()
}

/// Decodes a record from CBOR, and refuses trailing bytes. Used by [`cbor_value!`](crate::cbor_value).
pub fn from_cbor<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, String> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let record = decoder.decode().map_err(|error| error.to_string())?;
    if decoder.position() == bytes.len() { Ok(record) } else { Err(String::from("trailing bytes")) }
}

/// Says that record types with derived `minicbor` codecs are stored as CBOR.
#[macro_export]
macro_rules! cbor_value {
    ($($record:ty),+ $(,)?) => {$(
        impl $crate::value::Value for $record {
            fn encode(&self) -> $crate::Bytes {
                $crate::value::to_cbor(self)
            }

            fn decode(bytes: &$crate::Bytes) -> ::std::result::Result<Self, ::std::string::String> {
                $crate::value::from_cbor(bytes)
            }
        }
    )+};
}
