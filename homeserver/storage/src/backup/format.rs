//! The file format. No knowledge of stores or paths: a writer over [`Write`], a reader over [`Read`].
//!
//! ```text
//! file    magic (8 bytes), format version (4), frames: one head, any number of row blocks, one end; nothing behind it
//! frame   kind (1), stored length (4), raw length (4), BLAKE3 of these and the payload (32), payload
//! head    CBOR: schema version, position, number and name of each keyspace
//! rows    compressed with LZ4: keyspace (2), key length (4), key, value length (4), value; again and again
//! end     rows (8), blocks (8), digest (32)
//! ```
//!
//! Numbers are big endian. The digest is the BLAKE3 of the magic, the format version and the checksums of all frames before
//! the end, so it covers the order of the blocks as well as every byte in them.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use minicbor::{Decode, Encode};

use crate::{KeyspaceId, Position};

const MAGIC: [u8; 8] = *b"ENTENTE\x1a";
/// The newest format that this program knows, and the one that it writes.
pub(super) const FORMAT: u32 = 1;

/// A block is closed when its rows have this many bytes.
const FULL_BLOCK_BYTES: usize = 1024 * 1024;
/// A block is closed when it has this many rows: each block is one transaction when it is restored.
const FULL_BLOCK_ROWS: u64 = 4_096;
/// No frame is larger, raw or stored. Leaves room for a single huge row behind an almost full block.
const MOST_FRAME_BYTES: usize = 512 * 1024 * 1024;

const CHECKSUM_BYTES: usize = 32;
const END_BYTES: usize = 8 + 8 + CHECKSUM_BYTES;

/// What the file says before its rows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Head {
    #[n(0)]
    pub(super) schema: u32,
    #[n(1)]
    pub(super) position: Position,
    #[n(2)]
    pub(super) keyspaces: Vec<NamedKeyspace>,
}

/// A keyspace that the store had when it was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct NamedKeyspace {
    #[n(0)]
    pub(super) id: u16,
    #[n(1)]
    pub(super) name: String,
}

/// One row as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackupRow {
    pub(super) keyspace: KeyspaceId,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// What the end of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) rows: u64,
    pub(super) digest: blake3::Hash,
}

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not what was written.
    #[error("{0}")]
    Damaged(String),
    #[error("it has format {0}, this program reads format {FORMAT}; use a newer version")]
    UnknownFormat(u32),
    #[error("a row has {0} bytes, which is more than a backup holds")]
    RowTooLarge(usize),
}

fn damaged(reason: &str) -> FormatError {
    FormatError::Damaged(reason.to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    Head = 0,
    Rows = 1,
    End = 2,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Head, Self::Rows, Self::End].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// What stands before the payload of a frame.
struct FrameHead {
    kind: u8,
    stored_length: u32,
    raw_length: u32,
}

impl FrameHead {
    const BYTES: usize = 1 + 4 + 4;

    fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind;
        bytes[1..5].copy_from_slice(&self.stored_length.to_be_bytes());
        bytes[5..9].copy_from_slice(&self.raw_length.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [kind, s0, s1, s2, s3, r0, r1, r2, r3] = bytes;
        Self {
            kind,
            stored_length: u32::from_be_bytes([s0, s1, s2, s3]),
            raw_length: u32::from_be_bytes([r0, r1, r2, r3]),
        }
    }

    fn checksum(&self, payload: &[u8]) -> blake3::Hash {
        blake3::Hasher::new().update(&self.to_bytes()).update(payload).finalize()
    }
}

fn start_of_digest() -> blake3::Hasher {
    let mut digest = blake3::Hasher::new();
    digest.update(&MAGIC).update(&FORMAT.to_be_bytes());
    digest
}

/// Writes a backup from its head to its end.
pub(super) struct FormatWriter<W> {
    output: W,
    digest: blake3::Hasher,
    block: Vec<u8>,
    rows_in_block: u64,
    rows: u64,
    blocks: u64,
}

impl<W: Write> FormatWriter<W> {
    pub(super) fn start(mut output: W, head: &Head) -> Result<Self, FormatError> {
        output.write_all(&MAGIC)?;
        output.write_all(&FORMAT.to_be_bytes())?;
        let mut writer = Self {
            output,
            digest: start_of_digest(),
            block: Vec::new(),
            rows_in_block: 0,
            rows: 0,
            blocks: 0,
        };
        writer.frame(FrameKind::Head, &crate::value::to_cbor(head), None)?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) -> Result<(), FormatError> {
        let too_large = || FormatError::RowTooLarge(key.len().saturating_add(value.len()));
        if key.len().saturating_add(value.len()) > MOST_FRAME_BYTES / 2 {
            return Err(too_large());
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| too_large());
        self.block.extend_from_slice(&keyspace.0.to_be_bytes());
        self.block.extend_from_slice(&length(key)?.to_be_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(&length(value)?.to_be_bytes());
        self.block.extend_from_slice(value);
        self.rows_in_block += 1;
        self.rows += 1;
        if self.block.len() >= FULL_BLOCK_BYTES || self.rows_in_block >= FULL_BLOCK_ROWS {
            self.close_block()?;
        }
        Ok(())
    }

    /// Writes the end, and gives the output back, flushed.
    pub(super) fn finish(mut self) -> Result<(W, End), FormatError> {
        if self.rows_in_block > 0 {
            self.close_block()?;
        }
        let end = End { rows: self.rows, digest: self.digest.finalize() };
        let mut payload = Vec::with_capacity(END_BYTES);
        payload.extend_from_slice(&end.rows.to_be_bytes());
        payload.extend_from_slice(&self.blocks.to_be_bytes());
        payload.extend_from_slice(end.digest.as_bytes());
        self.frame(FrameKind::End, &payload, None)?;
        self.output.flush()?;
        Ok((self.output, end))
    }

    fn close_block(&mut self) -> Result<(), FormatError> {
        let raw = std::mem::take(&mut self.block);
        self.frame(FrameKind::Rows, &lz4_flex::block::compress(&raw), Some(raw.len()))?;
        self.block = raw;
        self.block.clear();
        self.rows_in_block = 0;
        self.blocks += 1;
        Ok(())
    }

    fn frame(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        raw_length: Option<usize>,
    ) -> Result<(), FormatError> {
        let length = |bytes: usize| u32::try_from(bytes).map_err(|_| FormatError::RowTooLarge(bytes));
        let stored_length = length(payload.len())?;
        let raw_length = length(raw_length.unwrap_or(payload.len()))?;
        let head = FrameHead { kind: kind as u8, stored_length, raw_length };
        let checksum = head.checksum(payload);
        self.output.write_all(&head.to_bytes())?;
        self.output.write_all(checksum.as_bytes())?;
        self.output.write_all(payload)?;
        self.digest.update(checksum.as_bytes());
        Ok(())
    }
}

/// Reads a backup from its head to its end, and checks everything on the way.
pub(super) struct FormatReader<R> {
    input: R,
    head: Head,
    digest: blake3::Hasher,
    rows: u64,
    blocks: u64,
}

/// What comes next in a backup.
pub(super) enum Next {
    /// The rows of a block, at least one.
    Rows(Vec<BackupRow>),
    /// The file is whole.
    End(End),
}

impl<R: Read> FormatReader<R> {
    pub(super) fn start(mut input: R) -> Result<Self, FormatError> {
        let magic: [u8; 8] = read_exactly(&mut input)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as a backup does"));
        }
        let format = u32::from_be_bytes(read_exactly(&mut input)?);
        if format != FORMAT {
            return Err(FormatError::UnknownFormat(format));
        }
        let mut digest = start_of_digest();
        let (kind, payload, _) = read_frame(&mut input, &mut digest)?;
        if kind != FrameKind::Head {
            return Err(damaged("its head is missing"));
        }
        let head = crate::value::from_cbor(&payload).map_err(FormatError::Damaged)?;
        Ok(Self { input, head, digest, rows: 0, blocks: 0 })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The next block or the end. Not to be called again after the end.
    pub(super) fn next(&mut self) -> Result<Next, FormatError> {
        let digest_so_far = self.digest.finalize();
        let (kind, payload, raw_length) = read_frame(&mut self.input, &mut self.digest)?;
        match kind {
            FrameKind::Head => Err(damaged("it has a second head")),
            FrameKind::Rows => {
                let raw = lz4_flex::block::decompress(&payload, raw_length)
                    .map_err(|error| FormatError::Damaged(format!("a block does not decompress: {error}")))?;
                let rows = parse_rows(raw.into())?;
                self.rows += rows.len() as u64;
                self.blocks += 1;
                Ok(Next::Rows(rows))
            }
            FrameKind::End => self.check_end(&payload, digest_so_far).map(Next::End),
        }
    }

    fn check_end(&mut self, payload: &[u8], digest: blake3::Hash) -> Result<End, FormatError> {
        let mut expected = Vec::with_capacity(END_BYTES);
        expected.extend_from_slice(&self.rows.to_be_bytes());
        expected.extend_from_slice(&self.blocks.to_be_bytes());
        expected.extend_from_slice(digest.as_bytes());
        if payload != expected {
            return Err(damaged("its end does not fit the rows before it"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(damaged("there is something behind its end"));
        }
        Ok(End { rows: self.rows, digest })
    }
}

fn cut_short(error: io::Error) -> FormatError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => FormatError::Io(error),
    }
}

fn read_exactly<const N: usize>(input: &mut impl Read) -> Result<[u8; N], FormatError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

fn read_frame(
    input: &mut impl Read,
    digest: &mut blake3::Hasher,
) -> Result<(FrameKind, Vec<u8>, usize), FormatError> {
    let head = FrameHead::from_bytes(read_exactly(input)?);
    let checksum: [u8; CHECKSUM_BYTES] = read_exactly(input)?;
    let (stored_length, raw_length) = (head.stored_length as usize, head.raw_length as usize);
    if stored_length > MOST_FRAME_BYTES || raw_length > MOST_FRAME_BYTES {
        return Err(damaged("a block has an impossible length"));
    }
    // Not allocated in advance: the length is not to be trusted before the checksum has been seen to fit.
    let mut payload = Vec::new();
    input.take(u64::from(head.stored_length)).read_to_end(&mut payload)?;
    if payload.len() < stored_length {
        return Err(damaged("it is cut short"));
    }
    if head.checksum(&payload) != checksum {
        return Err(damaged("the checksum of a block does not fit"));
    }
    let kind = FrameKind::from_byte(head.kind).ok_or_else(|| damaged("a block is of an unknown kind"))?;
    digest.update(&checksum);
    Ok((kind, payload, raw_length))
}

fn parse_rows(mut block: Bytes) -> Result<Vec<BackupRow>, FormatError> {
    let mut rows = Vec::new();
    while block.has_remaining() {
        let torn = |_| damaged("a row is torn");
        let keyspace = KeyspaceId(block.try_get_u16().map_err(torn)?);
        let key = split_field(&mut block)?;
        let value = split_field(&mut block)?;
        rows.push(BackupRow { keyspace, key, value });
    }
    Ok(rows)
}

fn split_field(block: &mut Bytes) -> Result<Bytes, FormatError> {
    let length = block.try_get_u32().map_err(|_| damaged("a row is torn"))? as usize;
    if length > block.len() {
        return Err(damaged("a row is torn"));
    }
    Ok(block.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            schema: 7,
            position: "s17w3s5".parse().unwrap(),
            keyspaces: vec![NamedKeyspace { id: 99, name: String::from("test.letters") }],
        }
    }

    fn written(rows: &[BackupRow]) -> Vec<u8> {
        let mut writer = FormatWriter::start(Vec::new(), &head()).unwrap();
        for row in rows {
            writer.row(row.keyspace, &row.key, &row.value).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<BackupRow>, FormatError> {
        let mut reader = FormatReader::start(bytes)?;
        let mut all = Vec::new();
        while let Next::Rows(rows) = reader.next()? {
            all.extend(rows);
        }
        Ok(all)
    }

    fn any_row() -> impl Strategy<Value = BackupRow> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        (any::<u16>(), bytes(20), bytes(200)).prop_map(|(id, key, value)| BackupRow {
            keyspace: KeyspaceId(id),
            key,
            value,
        })
    }

    proptest! {
        #[test]
        fn rows_come_back(rows in prop::collection::vec(any_row(), 0..50)) {
            prop_assert_eq!(read(&written(&rows)).unwrap(), rows);
        }

        #[test]
        fn any_changed_byte_is_noticed(
            rows in prop::collection::vec(any_row(), 0..20),
            at in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let mut bytes = written(&rows);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(read(&bytes).is_err());
        }

        #[test]
        fn any_missing_tail_is_noticed(
            rows in prop::collection::vec(any_row(), 0..20),
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = written(&rows);
            prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn no_bytes_from_outside_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = written(&[]);
            file.truncate(12);
            file.extend(bytes);
            prop_assert!(read(&file).is_err());
        }
    }

    fn many_rows() -> Vec<BackupRow> {
        let row = |number: u32| BackupRow {
            keyspace: KeyspaceId(99),
            key: number.to_be_bytes().to_vec().into(),
            value: Bytes::from_static(b"value"),
        };
        (0..10_000).map(row).collect()
    }

    #[test]
    fn rows_are_spread_over_blocks() {
        let bytes = written(&many_rows());
        let mut reader = FormatReader::start(bytes.as_slice()).unwrap();
        let mut lengths = Vec::new();
        while let Next::Rows(rows) = reader.next().unwrap() {
            lengths.push(rows.len());
        }
        assert_eq!(lengths, [4_096, 4_096, 10_000 - 2 * 4_096]);
        assert_eq!(reader.head(), &head());
    }

    #[test]
    fn a_missing_or_repeated_block_is_noticed() {
        let bytes = written(&many_rows());
        let frame_length = |at: usize| {
            let head = FrameHead::from_bytes(bytes[at..at + FrameHead::BYTES].try_into().unwrap());
            FrameHead::BYTES + CHECKSUM_BYTES + head.stored_length as usize
        };
        let first_block = 12 + frame_length(12);
        let second_block = first_block + frame_length(first_block);
        let missing = [&bytes[..first_block], &bytes[second_block..]].concat();
        assert!(matches!(read(&missing), Err(FormatError::Damaged(_))));
        let repeated = [&bytes[..second_block], &bytes[first_block..]].concat();
        assert!(matches!(read(&repeated), Err(FormatError::Damaged(_))));
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(matches!(read(&longer), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn a_row_that_no_backup_holds_is_refused() {
        let mut writer = FormatWriter::start(io::sink(), &head()).unwrap();
        let huge = vec![0; MOST_FRAME_BYTES / 2 + 1];
        assert!(matches!(writer.row(KeyspaceId(99), b"", &huge), Err(FormatError::RowTooLarge(_))));
    }
}
