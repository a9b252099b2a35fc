use std::{fmt, str::FromStr};

use smallvec::SmallVec;

/// The bytes of a [`LogPosition`] in keys and values.
pub(crate) const STAMP_LENGTH: usize = 10;

/// Who appends to the log: one process with one group committer. A single node is always writer 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub(crate) u16);

impl WriterId {
    /// The only writer of an embedded store.
    pub const SINGLE: Self = Self(0);
}

/// Where one commit stands in the log of its writer. Dense and in commit order per writer; says nothing across writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    pub(crate) writer: WriterId,
    pub(crate) sequence: u64,
}

impl LogPosition {
    /// Stands for the position of the commit that is being written, in keys and in [`Stamped`](crate::value::Stamped) values.
    pub const AT_COMMIT: Self = Self { writer: WriterId(u16::MAX), sequence: u64::MAX };

    pub(crate) fn to_stamp(self) -> [u8; STAMP_LENGTH] {
        let mut stamp = [0; STAMP_LENGTH];
        let (writer, sequence) = stamp.split_at_mut(2);
        writer.copy_from_slice(&self.writer.0.to_be_bytes());
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        stamp
    }

    pub(crate) fn from_stamp(stamp: [u8; STAMP_LENGTH]) -> Self {
        let [w0, w1, sequence @ ..] = stamp;
        Self { writer: WriterId(u16::from_be_bytes([w0, w1])), sequence: u64::from_be_bytes(sequence) }
    }
}

/// A place between two commits, over all writers: for each writer, how much of its log lies before it.
///
/// Opaque outside this crate: others compare positions with [`Position::includes`], join them, and carry them in tokens
/// by their text form (`Display`, `FromStr`), which survives restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Sorted by writer; a writer that is missing stands at 0.
    sequences: SmallVec<[(WriterId, u64); 1]>,
}

impl Position {
    /// Before the first commit.
    pub fn start() -> Self {
        Self::default()
    }

    /// Whether the commit at `position` lies before this place.
    pub fn includes(&self, position: LogPosition) -> bool {
        position.sequence <= self.sequence_of(position.writer)
    }

    /// Whether everything before `other` lies before this place too.
    pub fn covers(&self, other: &Self) -> bool {
        other.sequences.iter().all(|&(writer, sequence)| sequence <= self.sequence_of(writer))
    }

    /// Moves this place so that it covers `other` too.
    pub fn join(&mut self, other: &Self) {
        for &(writer, sequence) in &other.sequences {
            self.include(LogPosition { writer, sequence });
        }
    }

    /// Moves this place behind the commit at `position`.
    pub fn include(&mut self, position: LogPosition) {
        match self.sequences.binary_search_by_key(&position.writer, |&(writer, _)| writer) {
            Ok(index) => {
                let sequence = &mut self.sequences[index].1;
                *sequence = position.sequence.max(*sequence);
            }
            Err(index) => self.sequences.insert(index, (position.writer, position.sequence)),
        }
    }

    pub(crate) fn sequence_of(&self, writer: WriterId) -> u64 {
        match self.sequences.binary_search_by_key(&writer, |&(writer, _)| writer) {
            Ok(index) => self.sequences[index].1,
            Err(_) => 0,
        }
    }

    pub(crate) fn writers(&self) -> impl Iterator<Item = (WriterId, u64)> + '_ {
        self.sequences.iter().copied()
    }
}

/// `s<sequence>` for each writer, led by `w<writer>` unless that is writer 0: `s1742`, `s17w3s5`.
impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sequence_of(WriterId::SINGLE) > 0 || self.sequences.iter().all(|&(_, sequence)| sequence == 0)
        {
            write!(formatter, "s{}", self.sequence_of(WriterId::SINGLE))?;
        }
        for (writer, sequence) in self.writers() {
            if writer != WriterId::SINGLE && sequence > 0 {
                write!(formatter, "w{}s{sequence}", writer.0)?;
            }
        }
        Ok(())
    }
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the log")]
pub struct ParsePositionError;

/// More writers than a position of ours ever has: one from outside may not make us allocate.
const MOST_WRITERS: usize = 1024;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut position = Self::start();
        let mut rest = text;
        let mut last = None;
        while !rest.is_empty() {
            let writer = match rest.strip_prefix('w') {
                Some(after) => {
                    let (writer, after) = leading_number(after)?;
                    rest = after;
                    WriterId(writer.try_into().map_err(|_| ParsePositionError)?)
                }
                None => WriterId::SINGLE,
            };
            let (sequence, after) = leading_number(rest.strip_prefix('s').ok_or(ParsePositionError)?)?;
            if last.is_some_and(|last| last >= writer) || position.sequences.len() == MOST_WRITERS {
                return Err(ParsePositionError);
            }
            rest = after;
            last = Some(writer);
            if sequence > 0 {
                position.include(LogPosition { writer, sequence });
            }
        }
        if last.is_none() { Err(ParsePositionError) } else { Ok(position) }
    }
}

fn leading_number(text: &str) -> Result<(u64, &str), ParsePositionError> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Ok((digits.parse().map_err(|_| ParsePositionError)?, rest))
}

impl<C> minicbor::Encode<C> for Position {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.str(&self.to_string())?;
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Position {
    fn decode(decoder: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        decoder.str()?.parse().map_err(minicbor::decode::Error::custom)
    }
}

crate::cbor_value!(Position);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_position() -> impl Strategy<Value = Position> {
        prop::collection::btree_map(0..50_u16, 1..u64::MAX, 0..4).prop_map(|map| {
            let mut position = Position::start();
            for (writer, sequence) in map {
                position.include(LogPosition { writer: WriterId(writer), sequence });
            }
            position
        })
    }

    proptest! {
        #[test]
        fn text_gives_the_position_back(position in any_position()) {
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn a_join_is_the_least_that_covers_both(left in any_position(), right in any_position()) {
            let mut joined = left.clone();
            joined.join(&right);
            prop_assert!(joined.covers(&left) && joined.covers(&right));
            for (writer, sequence) in joined.writers() {
                prop_assert_eq!(sequence, left.sequence_of(writer).max(right.sequence_of(writer)));
            }
        }

        #[test]
        fn any_text_is_a_position_or_refused(text in "[sw0-9]{0,40}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string().parse(), Ok(position));
            }
        }
    }

    #[test]
    fn text_is_short_on_a_single_node() {
        let mut position = Position::start();
        assert_eq!(position.to_string(), "s0");
        position.include(LogPosition { writer: WriterId::SINGLE, sequence: 1742 });
        assert_eq!(position.to_string(), "s1742");
        position.include(LogPosition { writer: WriterId(3), sequence: 5 });
        assert_eq!(position.to_string(), "s1742w3s5");
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "s", "1", "w1", "s1s2", "w2s1w1s1", "s99999999999999999999", "w65536s1", "s1 "] {
            assert_eq!(text.parse::<Position>(), Err(ParsePositionError), "{text}");
        }
    }
}
