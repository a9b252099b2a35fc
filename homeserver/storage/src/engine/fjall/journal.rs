//! What fjall 3.1 does not do itself: it refuses a journal whose newest batch was torn by a power cut, if the batch's end was
//! written and pages before it were not. That batch was being synced and nobody had been told of it, so it may go.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Ends each batch.
const TRAILER: &[u8; 4] = b"FJL\x03";
/// The file is searched in pieces of this size.
const PIECE_BYTES: u64 = 64 * 1024;

/// The end of the newest batch, cut off so that fjall takes the batch for one that was never finished.
pub(super) struct CutEnd {
    journal: File,
    trailer_at: u64,
    length: u64,
}

/// Cuts the end of the newest batch off; `None` if the journal does not end with one.
pub(super) fn cut_newest_end(directory: &Path) -> io::Result<Option<CutEnd>> {
    let Some(path) = newest_journal(directory)? else { return Ok(None) };
    let mut journal = OpenOptions::new().read(true).write(true).open(path)?;
    let length = journal.metadata()?.len();
    let Some(trailer_at) = end_of_data(&mut journal, length)?.checked_sub(TRAILER.len() as u64) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER.len()];
    journal.seek(SeekFrom::Start(trailer_at))?;
    journal.read_exact(&mut trailer)?;
    if trailer != *TRAILER {
        return Ok(None);
    }
    journal.set_len(trailer_at)?;
    journal.sync_all()?;
    Ok(Some(CutEnd { journal, trailer_at, length }))
}

impl CutEnd {
    /// Puts it back: it was not the newest batch that is damaged.
    pub(super) fn put_back(mut self) -> io::Result<()> {
        self.journal.seek(SeekFrom::Start(self.trailer_at))?;
        self.journal.write_all(TRAILER)?;
        self.journal.set_len(self.length)?;
        self.journal.sync_all()
    }
}

fn newest_journal(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(number) = stem.and_then(|stem| stem.parse::<u64>().ok())
        {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Behind the last byte that is not zero: the rest is space that was set aside.
fn end_of_data(journal: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        journal.seek(SeekFrom::Start(start))?;
        let mut piece = Vec::new();
        (&*journal).take(end - start).read_to_end(&mut piece)?;
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
