//! The keyspaces of this crate and their rows. Users are named by their localparts, tokens by their digests.

use entente_storage::{Bytes, Keyspace, KeyspaceInfo, cbor_value, value::Stamped};
use minicbor::{Decode, Encode};

use crate::{PresenceState, tokens::Digest};

/// Users, by localpart. A row is never deleted, so that no name is ever given twice.
pub(crate) const USERS: Keyspace<String, UserRow> = Keyspace::new(0x0101, "accounts.users");
/// Devices, by localpart and device id.
pub(crate) const DEVICES: Keyspace<(String, String), DeviceRow> = Keyspace::new(0x0102, "accounts.devices");
/// When and from where a device was last seen, by localpart and device id. Written relaxed.
pub(crate) const SEEN: Keyspace<(String, String), SeenRow> = Keyspace::new(0x0103, "accounts.seen");
/// Whose access tokens are whose, by digest.
pub(crate) const ACCESS_TOKENS: Keyspace<Digest, TokenRow> = Keyspace::new(0x0104, "accounts.access_tokens");
/// Whose refresh tokens are whose, by digest.
pub(crate) const REFRESH_TOKENS: Keyspace<Digest, TokenRow> =
    Keyspace::new(0x0105, "accounts.refresh_tokens");
/// Tokens for `m.login.token`, by digest.
pub(crate) const LOGIN_TOKENS: Keyspace<Digest, ShortTokenRow> =
    Keyspace::new(0x0106, "accounts.login_tokens");
/// `OpenID` tokens, by digest.
pub(crate) const OPENID_TOKENS: Keyspace<Digest, ShortTokenRow> =
    Keyspace::new(0x0107, "accounts.openid_tokens");
/// Registration tokens, by their text.
pub(crate) const REGISTRATION_TOKENS: Keyspace<String, RegistrationTokenRow> =
    Keyspace::new(0x0108, "accounts.registration_tokens");
/// Sessions of user-interactive authentication, by digest of their id. Written relaxed.
pub(crate) const INTERACTIVE: Keyspace<Digest, InteractiveRow> =
    Keyspace::new(0x0109, "accounts.interactive");
/// Profile fields, by localpart and field name: JSON values.
pub(crate) const PROFILES: Keyspace<(String, String), Bytes> = Keyspace::new(0x010a, "accounts.profiles");
/// Account data, by localpart, room id (empty: global) and event type: JSON objects. An empty value marks deleted data.
pub(crate) const ACCOUNT_DATA: Keyspace<(String, String, String), Stamped<Bytes>> =
    Keyspace::new(0x010b, "accounts.account_data");
/// Filters, by localpart and number: JSON objects.
pub(crate) const FILTERS: Keyspace<(String, u64), Bytes> = Keyspace::new(0x010c, "accounts.filters");

/// What never changes about a server, by the name of it: `server_name`.
pub(crate) const SERVER: Keyspace<String, String> = Keyspace::new(0x010d, "accounts.server");

/// What others were told last of a user's presence, by localpart.
pub(crate) const PRESENCE: Keyspace<String, Stamped<PresenceRow>> =
    Keyspace::new(0x010e, "accounts.presence");

/// What other servers told last of their users' presence, by user id.
pub(crate) const PRESENCE_ELSEWHERE: Keyspace<String, Stamped<PresenceElsewhereRow>> =
    Keyspace::new(0x010f, "accounts.presence_elsewhere");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 15] = [
    USERS.info(),
    DEVICES.info(),
    SEEN.info(),
    ACCESS_TOKENS.info(),
    REFRESH_TOKENS.info(),
    LOGIN_TOKENS.info(),
    OPENID_TOKENS.info(),
    REGISTRATION_TOKENS.info(),
    INTERACTIVE.info(),
    PROFILES.info(),
    ACCOUNT_DATA.info(),
    FILTERS.info(),
    SERVER.info(),
    PRESENCE.info(),
    PRESENCE_ELSEWHERE.info(),
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[expect(clippy::struct_excessive_bools, reason = "each is a decision of its own")]
pub(crate) struct UserRow {
    /// In the PHC string format; `None`: the user cannot log in with a password.
    #[n(0)]
    pub(crate) password_hash: Option<String>,
    /// Milliseconds since 1970.
    #[n(1)]
    pub(crate) created_at: u64,
    #[n(2)]
    pub(crate) admin: bool,
    #[n(3)]
    pub(crate) deactivated: bool,
    #[n(4)]
    pub(crate) erased: bool,
    #[n(5)]
    pub(crate) locked: bool,
    #[n(6)]
    pub(crate) suspended: bool,
    /// Milliseconds since 1970; `None`: for ever.
    #[n(7)]
    pub(crate) valid_until: Option<u64>,
    /// The number of the next filter.
    #[n(8)]
    pub(crate) next_filter: u64,
    #[cbor(n(9), default)]
    pub(crate) guest: bool,
}

/// The tokens of a device that were handed out together.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct TokenPair {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) access: Digest,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) refresh: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DeviceRow {
    #[n(0)]
    pub(crate) display_name: Option<String>,
    /// Milliseconds since 1970.
    #[n(1)]
    pub(crate) created_at: u64,
    /// The tokens in use.
    #[n(2)]
    pub(crate) tokens: TokenPair,
    /// Tokens that were handed out by a refresh and not used yet. Until they are, the ones in use stay valid: the answer
    /// may not have reached the client.
    #[n(3)]
    pub(crate) refreshed: Option<TokenPair>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SeenRow {
    /// Milliseconds since 1970.
    #[n(0)]
    pub(crate) at: u64,
    #[n(1)]
    pub(crate) address: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct TokenRow {
    #[n(0)]
    pub(crate) localpart: String,
    #[n(1)]
    pub(crate) device_id: String,
    /// Milliseconds since 1970; `None`: never.
    #[n(2)]
    pub(crate) expires_at: Option<u64>,
    /// Whether it was handed out by a refresh, so that its first use ends the tokens before it.
    #[n(3)]
    pub(crate) refreshed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ShortTokenRow {
    #[n(0)]
    pub(crate) localpart: String,
    /// Milliseconds since 1970.
    #[n(1)]
    pub(crate) expires_at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RegistrationTokenRow {
    /// `None`: any number.
    #[n(0)]
    pub(crate) uses_allowed: Option<u64>,
    #[n(1)]
    pub(crate) completed: u64,
    /// Milliseconds since 1970; `None`: never.
    #[n(2)]
    pub(crate) expires_at: Option<u64>,
    /// Whether who registers with it becomes an administrator.
    #[n(3)]
    pub(crate) admin: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct InteractiveRow {
    /// What the proof is for; it holds for nothing else.
    #[n(0)]
    pub(crate) operation: String,
    /// Who has to prove it; `None` for a registration.
    #[n(1)]
    pub(crate) localpart: Option<String>,
    /// Names of the completed stages.
    #[n(2)]
    pub(crate) completed: Vec<String>,
    #[n(3)]
    pub(crate) registration_token: Option<String>,
    /// Milliseconds since 1970.
    #[n(4)]
    pub(crate) expires_at: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct PresenceRow {
    #[n(0)]
    pub(crate) state: PresenceState,
    #[n(1)]
    pub(crate) status_msg: Option<String>,
    /// Milliseconds since 1970.
    #[n(2)]
    pub(crate) last_active_at: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct PresenceElsewhereRow {
    #[n(0)]
    pub(crate) state: PresenceState,
    #[n(1)]
    pub(crate) status_msg: Option<String>,
    /// Milliseconds since 1970, like the other.
    #[n(2)]
    pub(crate) last_active_at: Option<u64>,
    /// When the server told it last.
    #[n(3)]
    pub(crate) heard_at: u64,
}

cbor_value!(
    UserRow,
    DeviceRow,
    SeenRow,
    TokenRow,
    ShortTokenRow,
    RegistrationTokenRow,
    InteractiveRow,
    PresenceRow,
    PresenceElsewhereRow,
);
