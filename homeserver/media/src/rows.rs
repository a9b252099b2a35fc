//! The keyspaces of this crate and their rows.

use entente_storage::{Keyspace, KeyspaceInfo, cbor_value};
use minicbor::{Decode, Encode};

/// Local media, by media id.
pub(crate) const MEDIA: Keyspace<String, MediaRow> = Keyspace::new(0x0501, "media.media");
/// The same by the uploader's localpart, when it came (ms since 1970), and media id.
pub(crate) const MEDIA_OF_USERS: Keyspace<(String, u64, String), ()> =
    Keyspace::new(0x0502, "media.media_of_users");
/// Promised uploads by when they lapse (ms since 1970) and media id.
pub(crate) const PENDING: Keyspace<(u64, String), ()> = Keyspace::new(0x0503, "media.pending");
/// What users keep, by localpart.
pub(crate) const USAGE: Keyspace<String, UsageRow> = Keyspace::new(0x0504, "media.usage");
/// Content, by its digest in hexadecimal digits.
pub(crate) const CONTENT: Keyspace<String, ContentRow> = Keyspace::new(0x0505, "media.content");
/// Media of other servers that were fetched, by server and media id.
pub(crate) const REMOTE: Keyspace<(String, String), MediaRow> = Keyspace::new(0x0506, "media.remote");

/// What pages said about themselves, by URL.
pub(crate) const PREVIEWS: Keyspace<String, PreviewRow> = Keyspace::new(0x0507, "media.previews");

/// One row, [`OWNER_KEY`]: what the object store says of itself to show that it belongs to this database.
pub(crate) const OWNER: Keyspace<String, String> = Keyspace::new(0x0508, "media.owner");
/// The key of the one row.
pub(crate) const OWNER_KEY: &str = "owner";

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 8] = [
    MEDIA.info(),
    MEDIA_OF_USERS.info(),
    PENDING.info(),
    USAGE.info(),
    CONTENT.info(),
    REMOTE.info(),
    PREVIEWS.info(),
    OWNER.info(),
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct MediaRow {
    /// Whose; empty for media of other servers.
    #[n(0)]
    pub(crate) localpart: String,
    /// When it came, or was promised: milliseconds since 1970.
    #[n(1)]
    pub(crate) created_at: u64,
    /// The digest of its bytes; `None`: it has not come yet.
    #[n(2)]
    pub(crate) digest: Option<String>,
    /// Bytes.
    #[n(3)]
    pub(crate) size: u64,
    #[n(4)]
    pub(crate) content_type: Option<String>,
    #[n(5)]
    pub(crate) filename: Option<String>,
    /// Whether the operator keeps it from everybody.
    #[n(6)]
    pub(crate) quarantined: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct UsageRow {
    /// Bytes of all uploads.
    #[n(0)]
    pub(crate) bytes: u64,
    /// Uploads that were promised and have not come.
    #[n(1)]
    pub(crate) pending: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ContentRow {
    /// How many media are of it.
    #[n(0)]
    pub(crate) media: u64,
    /// The name of the object that has its bytes.
    #[n(1)]
    pub(crate) object: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct PreviewRow {
    /// A JSON object.
    #[n(0)]
    pub(crate) preview: String,
    /// Why there is none.
    #[n(1)]
    pub(crate) error: Option<String>,
    /// Until when it is remembered: milliseconds since 1970.
    #[n(2)]
    pub(crate) expires_at: u64,
}

cbor_value!(MediaRow, UsageRow, ContentRow, PreviewRow);
