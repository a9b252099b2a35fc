use std::{marker::PhantomData, ops::Bound};

use bytes::Bytes;

use crate::{
    Keyspace, KeyspaceInfo,
    codec::{EncodesAs, Key, KeyWriter},
    value::Value,
};

/// Rows in a page unless [`Scan::limit`] says otherwise.
const DEFAULT_LIMIT: usize = 1_000;
/// A page ends early once its keys and values have this many bytes.
const MOST_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A range of rows to read in pages, in either direction. Made by [`Keyspace::scan`].
#[derive(Debug)]
pub struct Scan<K, V> {
    pub(crate) range: RowRange,
    types: PhantomData<fn() -> (K, V)>,
}

/// A range of encoded keys in one keyspace, as engines see it.
#[derive(Clone, Debug)]
pub struct RowRange {
    /// The keyspace.
    pub info: KeyspaceInfo,
    /// The lower end.
    pub lower: Bound<Bytes>,
    /// The upper end.
    pub upper: Bound<Bytes>,
    /// Whether the page starts at the upper end and goes down.
    pub reverse: bool,
    /// The most rows that the page may have.
    pub limit: usize,
}

/// Where the next page begins: behind the last row of the page before. Holds no resources of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume(pub(crate) Bytes);

/// Some rows of a scan, and where to go on.
#[derive(Clone, Debug)]
pub struct Page<K, V> {
    /// The rows, in the scan's direction.
    pub rows: Vec<(K, V)>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<Resume>,
}

impl<K: Key, V: Value> Scan<K, V> {
    pub(crate) fn new(info: KeyspaceInfo, prefix: Vec<u8>) -> Self {
        let upper = successor(&prefix).map_or(Bound::Unbounded, |end| Bound::Excluded(end.into()));
        let lower = Bound::Included(prefix.into());
        let range = RowRange { info, lower, upper, reverse: false, limit: DEFAULT_LIMIT };
        Self { range, types: PhantomData }
    }

    /// Narrows to keys of `key` and above.
    #[must_use]
    pub fn from(mut self, key: impl EncodesAs<K>) -> Self {
        self.range.raise_lower(Bound::Included(encode(key)));
        self
    }

    /// Narrows to keys above `key`.
    #[must_use]
    pub fn after(mut self, key: impl EncodesAs<K>) -> Self {
        self.range.raise_lower(Bound::Excluded(encode(key)));
        self
    }

    /// Narrows to keys below `key`.
    #[must_use]
    pub fn before(mut self, key: impl EncodesAs<K>) -> Self {
        self.range.drop_upper(Bound::Excluded(encode(key)));
        self
    }

    /// Narrows to keys of `key` and below.
    #[must_use]
    pub fn to(mut self, key: impl EncodesAs<K>) -> Self {
        self.range.drop_upper(Bound::Included(encode(key)));
        self
    }

    /// Goes from the highest key downwards.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.range.reverse = true;
        self
    }

    /// The most rows of a page; at least 1.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.range.limit = rows.max(1);
        self
    }

    /// Goes on behind an earlier page of the same scan.
    #[must_use]
    pub fn resume(mut self, at: Resume) -> Self {
        self.range.resume(at);
        self
    }

    pub(crate) fn page(&self, page: RowPage) -> Result<Page<K, V>, crate::StorageError> {
        let info = self.range.info;
        let decode = |(key, value): (Bytes, Bytes)| {
            let key = Keyspace::<K, V>::decode_key(info, &key)?;
            Ok((key, Keyspace::<K, V>::decode_value(info, &value)?))
        };
        let next = page.next();
        let rows = page.rows.into_iter().map(decode).collect::<Result<_, crate::StorageError>>()?;
        Ok(Page { rows, next })
    }
}

impl<K, V> Clone for Scan<K, V> {
    fn clone(&self) -> Self {
        Self { range: self.range.clone(), types: PhantomData }
    }
}

impl RowRange {
    /// All rows of a keyspace, `limit` a page.
    pub(crate) fn all_of(info: KeyspaceInfo, limit: usize) -> Self {
        Self { info, lower: Bound::Included(Bytes::new()), upper: Bound::Unbounded, reverse: false, limit }
    }

    /// Goes on behind the last row of an earlier page.
    pub fn resume(&mut self, Resume(last): Resume) {
        if self.reverse {
            self.drop_upper(Bound::Excluded(last));
        } else {
            self.raise_lower(Bound::Excluded(last));
        }
    }

    /// Whether no key can lie within: some engines refuse such a range instead of finding nothing.
    pub fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (
                Bound::Included(lower) | Bound::Excluded(lower),
                Bound::Included(upper) | Bound::Excluded(upper),
            ) => lower >= upper,
        }
    }

    fn raise_lower(&mut self, bound: Bound<Bytes>) {
        let raises = match (&self.lower, &bound) {
            (Bound::Unbounded, _) => true,
            (Bound::Included(old), Bound::Excluded(new)) => new >= old,
            (Bound::Included(old) | Bound::Excluded(old), Bound::Included(new) | Bound::Excluded(new)) => {
                new > old
            }
            (_, Bound::Unbounded) => false,
        };
        if raises {
            self.lower = bound;
        }
    }

    fn drop_upper(&mut self, bound: Bound<Bytes>) {
        let drops = match (&self.upper, &bound) {
            (Bound::Unbounded, _) => true,
            (Bound::Included(old), Bound::Excluded(new)) => new <= old,
            (Bound::Included(old) | Bound::Excluded(old), Bound::Included(new) | Bound::Excluded(new)) => {
                new < old
            }
            (_, Bound::Unbounded) => false,
        };
        if drops {
            self.upper = bound;
        }
    }
}

/// Encoded rows of one page. Engines fill it with [`RowPage::push`].
#[derive(Clone, Debug, Default)]
pub struct RowPage {
    /// The rows, in the scan's direction.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether the range may have more rows behind the last one.
    pub more: bool,
    bytes: usize,
}

impl RowPage {
    /// Adds a row. Answers whether the page is full now; the engine then sets nothing further and returns it, and the
    /// page counts as having more behind it.
    pub fn push(&mut self, key: Bytes, value: Bytes, limit: usize) -> bool {
        self.bytes += key.len() + value.len();
        self.rows.push((key, value));
        self.more = self.rows.len() >= limit || self.bytes >= MOST_PAGE_BYTES;
        self.more
    }

    /// Where the next page begins.
    pub fn next(&self) -> Option<Resume> {
        if !self.more {
            return None;
        }
        self.rows.last().map(|(key, _)| Resume(key.clone()))
    }
}

fn encode<K>(key: impl EncodesAs<K>) -> Bytes {
    let mut writer = KeyWriter::new();
    key.encode_as(&mut writer);
    writer.finish().0.into()
}

/// The first byte string behind all that begin with `prefix`; `None` if there is none.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_ends_a_prefix() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff]), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn bounds_only_narrow() {
        const LETTERS: Keyspace<(String, u64), ()> = Keyspace::new(99, "test.letters");
        let scan = LETTERS.scan(("b",)).from(("a", 1)).before(("c", 1));
        let prefix = LETTERS.scan(("b",));
        assert_eq!((scan.range.lower, scan.range.upper), (prefix.range.lower, prefix.range.upper));
    }
}
