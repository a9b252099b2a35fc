use crate::state::EventNumber;

/// A chain of one room, named by its first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub EventNumber);

/// An event's place in the chains of its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainPosition {
    /// The chain.
    pub chain: ChainId,
    /// The place in it, counted from 1.
    pub sequence: u32,
}

/// What stands at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRow {
    /// The event.
    pub event: EventNumber,
    /// Positions in other chains that it reaches. With what the events before it in the chain link to, and what all those reach in
    /// turn, that is its auth chain.
    pub links: Vec<ChainPosition>,
}

/// A part of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The chain.
    pub chain: ChainId,
    /// The sequence number before the first one; 0 if it is the chain's beginning.
    pub after: u32,
    /// The last sequence number.
    pub to: u32,
}

impl Span {
    pub(super) fn of(position: ChainPosition) -> Self {
        Self { chain: position.chain, after: position.sequence.saturating_sub(1), to: position.sequence }
    }

    /// How many rows it has.
    #[expect(clippy::len_without_is_empty, reason = "a span has at least one row")]
    pub fn len(&self) -> usize {
        self.to.saturating_sub(self.after) as usize
    }

    /// Its positions, first to last.
    pub fn positions(&self) -> impl Iterator<Item = ChainPosition> + use<> {
        let chain = self.chain;
        (self.after..self.to).map(move |before| ChainPosition { chain, sequence: before + 1 })
    }

    /// Its first `rows` rows, and the others.
    pub(super) fn split_after(self, rows: usize) -> (Self, Self) {
        let middle = u32::try_from(rows).map_or(self.to, |rows| self.after.saturating_add(rows).min(self.to));
        (Self { to: middle, ..self }, Self { after: middle, ..self })
    }
}

/// Bytes that are not a position or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored auth chain is damaged")]
pub struct InvalidChainRow;

impl ChainPosition {
    /// The encoding, of 4 bytes in a room of some hundred thousand events.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8);
        self.put(&mut bytes);
        bytes
    }

    /// Reads an encoding.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, InvalidChainRow> {
        let position = Self::take(&mut bytes)?;
        if bytes.is_empty() { Ok(position) } else { Err(InvalidChainRow) }
    }

    fn put(self, bytes: &mut Vec<u8>) {
        put_event(bytes, self.chain.0);
        put_number(bytes, u64::from(self.sequence));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, InvalidChainRow> {
        let chain = ChainId(take_event(bytes)?);
        let sequence = u32::try_from(take_number(bytes)?).map_err(|_| InvalidChainRow)?;
        if sequence == 0 { Err(InvalidChainRow) } else { Ok(Self { chain, sequence }) }
    }
}

impl ChainRow {
    /// The encoding: 3 bytes and 4 for each link, in a room of some hundred thousand events.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 4 * self.links.len());
        put_event(&mut bytes, self.event);
        for link in &self.links {
            link.put(&mut bytes);
        }
        bytes
    }

    /// Reads an encoding.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, InvalidChainRow> {
        let event = take_event(&mut bytes)?;
        let mut links = Vec::new();
        while !bytes.is_empty() {
            links.push(ChainPosition::take(&mut bytes)?);
        }
        Ok(Self { event, links })
    }
}

/// Small numbers of either sign are short: the sign goes to the lowest bit.
fn put_event(bytes: &mut Vec<u8>, event: EventNumber) {
    let number = event.0;
    put_number(bytes, (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
}

fn take_event(bytes: &mut &[u8]) -> Result<EventNumber, InvalidChainRow> {
    let number = take_number(bytes)?;
    Ok(EventNumber((number >> 1).cast_signed() ^ -((number & 1).cast_signed())))
}

/// Seven bits a byte, lowest first; the highest bit of a byte says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, InvalidChainRow> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(InvalidChainRow)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(InvalidChainRow);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(InvalidChainRow)
}
