//! A registration as bridges write it (A-S API, "Registration").

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use url::Url;

use crate::AppServiceError;

/// A registration has at most this many bytes: it also has to fit through the socket of the command line.
pub(crate) const MOST_BYTES: usize = 56 * 1024;
/// Expressions of one registration.
const MOST_EXPRESSIONS: usize = 1_000;
/// Bytes of an expression.
const MOST_EXPRESSION_BYTES: usize = 4_096;
/// Memory that a compiled expression may take, in bytes.
const MOST_COMPILED_BYTES: usize = 1024 * 1024;
/// Bytes of ids, tokens and names of protocols.
const MOST_TEXT_BYTES: usize = 255;
/// What is before an expression and behind it: the whole id has to match, not a part of it.
const BEGIN: &str = "^(?:";
const END: &str = ")$";

/// An application service.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Registration {
    /// Its id, which is not shown to users.
    pub id: String,
    /// Where it is reached, without a slash at the end; `None`: nothing is sent to it.
    pub url: Option<Url>,
    /// The token by which it is known here.
    pub(crate) as_token: String,
    /// The token by which it knows this server.
    pub(crate) hs_token: String,
    /// Its own user.
    pub sender: OwnedUserId,
    /// Whether its users, but for its own, are rate limited.
    pub rate_limited: bool,
    /// Whether it wants to hear of typing, receipts, presence and messages to devices (MSC2409, MSC4203).
    pub receive_ephemeral: bool,
    /// Whether it wants to hear of device lists and counts of keys (MSC3202).
    pub encryption: bool,
    /// Whether its users have no sessions of their own and it makes their devices itself (MSC4190).
    pub device_management: bool,
    /// Whether it knows messages to devices under their name from before they were in the spec.
    pub(crate) unstable_names: bool,
    /// The protocols that it bridges.
    pub protocols: Vec<String>,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
}

/// Ids that a service is interested in.
#[derive(Clone, Debug)]
pub struct Namespace {
    exclusive: bool,
    expression: Regex,
}

impl Namespace {
    /// Whether they are nobody else's.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// What they match, as it was written.
    pub fn expression(&self) -> &str {
        let whole = self.expression.as_str();
        whole.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap_or(whole)
    }
}

/// What a file says.
#[derive(Deserialize)]
struct Written {
    id: Spanned<String>,
    url: Option<Spanned<String>>,
    as_token: Spanned<String>,
    hs_token: Spanned<String>,
    sender_localpart: Spanned<String>,
    rate_limited: Option<bool>,
    receive_ephemeral: Option<bool>,
    push_ephemeral: Option<bool>,
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    unstable_push_ephemeral: Option<bool>,
    #[serde(rename = "org.matrix.msc3202")]
    encryption: Option<bool>,
    device_management: Option<bool>,
    #[serde(rename = "io.element.msc4190")]
    unstable_device_management: Option<bool>,
    protocols: Option<Vec<Spanned<String>>>,
    namespaces: Option<BTreeMap<String, Option<Vec<WrittenNamespace>>>>,
}

#[derive(Deserialize)]
struct WrittenNamespace {
    #[serde(default)]
    exclusive: bool,
    regex: Spanned<String>,
}

/// Says mistakes with their place.
struct Reader<'a> {
    name: &'a str,
}

impl Reader<'_> {
    fn fault(&self, at: Location, message: impl std::fmt::Display) -> AppServiceError {
        AppServiceError::Registration(format!("{}:{}:{}: {message}", self.name, at.line(), at.column()))
    }

    fn text(&self, field: &str, text: &Spanned<String>) -> Result<String, AppServiceError> {
        let is_good = !text.value.is_empty()
            && text.value.len() <= MOST_TEXT_BYTES
            && !text.value.contains(char::is_control);
        if is_good {
            Ok(text.value.clone())
        } else {
            Err(self.fault(text.referenced, format!("{field} has between 1 and 255 bytes on one line")))
        }
    }

    fn url(&self, url: &Spanned<String>) -> Result<Option<Url>, AppServiceError> {
        let message = "url is an http or https address without query, or null";
        if url.value.is_empty() {
            return Ok(None);
        }
        let parsed = Url::parse(&url.value).map_err(|_| self.fault(url.referenced, message))?;
        let is_good = matches!(parsed.scheme(), "http" | "https")
            && parsed.host().is_some()
            && parsed.query().is_none()
            && parsed.fragment().is_none()
            && url.value.len() <= 2_048;
        if is_good { Ok(Some(parsed)) } else { Err(self.fault(url.referenced, message)) }
    }

    fn sender(
        &self,
        localpart: &Spanned<String>,
        server_name: &ServerName,
    ) -> Result<OwnedUserId, AppServiceError> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
        let user_id = UserId::parse_with_server_name(localpart.value.as_str(), server_name).ok();
        user_id.filter(|user_id| user_id.localpart().bytes().all(is_allowed)).ok_or_else(|| {
            self.fault(
                localpart.referenced,
                "sender_localpart is the name of a user: a-z, 0-9, and . _ = - / +",
            )
        })
    }

    fn namespace(&self, written: &WrittenNamespace) -> Result<Namespace, AppServiceError> {
        let WrittenNamespace { exclusive, regex } = written;
        if regex.value.len() > MOST_EXPRESSION_BYTES {
            return Err(self.fault(regex.referenced, "an expression has at most 4096 bytes"));
        }
        let expression = RegexBuilder::new(&format!("{BEGIN}{}{END}", regex.value))
            .size_limit(MOST_COMPILED_BYTES)
            .dfa_size_limit(MOST_COMPILED_BYTES)
            .build()
            .map_err(|error| self.fault(regex.referenced, format!("regex: {error}")))?;
        Ok(Namespace { exclusive: *exclusive, expression })
    }
}

impl Registration {
    /// Reads a registration from YAML that messages call `name`. Mistakes are told with line and column.
    pub fn parse(text: &str, name: &str, server_name: &ServerName) -> Result<Self, AppServiceError> {
        if text.len() > MOST_BYTES {
            let message = format!("{name}: a registration has at most {MOST_BYTES} bytes");
            return Err(AppServiceError::Registration(message));
        }
        let reader = Reader { name };
        let written: Written = serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            match error.location() {
                Some(at) => reader.fault(at, error),
                None => AppServiceError::Registration(format!("{name}: {error}")),
            }
        })?;
        let mut namespaces = written.namespaces.unwrap_or_default();
        if namespaces.values().flatten().map(Vec::len).sum::<usize>() > MOST_EXPRESSIONS {
            let message = format!("{name}: a registration has at most {MOST_EXPRESSIONS} expressions");
            return Err(AppServiceError::Registration(message));
        }
        let mut read = |kind: &str| {
            let written = namespaces.remove(kind).flatten().unwrap_or_default();
            written.iter().map(|namespace| reader.namespace(namespace)).collect::<Result<Vec<_>, _>>()
        };
        let unstable_ephemeral =
            written.unstable_push_ephemeral.or(written.push_ephemeral).unwrap_or_default();
        let encryption = written.encryption.unwrap_or_default();
        let protocols = written.protocols.unwrap_or_default();
        Ok(Self {
            id: reader.text("id", &written.id)?,
            url: written.url.as_ref().map(|url| reader.url(url)).transpose()?.flatten(),
            as_token: reader.text("as_token", &written.as_token)?,
            hs_token: reader.text("hs_token", &written.hs_token)?,
            sender: reader.sender(&written.sender_localpart, server_name)?,
            rate_limited: written.rate_limited.unwrap_or(true),
            receive_ephemeral: written.receive_ephemeral.unwrap_or_default() || unstable_ephemeral,
            encryption,
            device_management: written
                .device_management
                .or(written.unstable_device_management)
                .unwrap_or_default(),
            unstable_names: encryption || unstable_ephemeral,
            protocols: protocols
                .iter()
                .map(|protocol| reader.text("a protocol", protocol))
                .collect::<Result<_, _>>()?,
            users: read("users")?,
            aliases: read("aliases")?,
            rooms: read("rooms")?,
        })
    }

    /// Whether a user is the service's own, or in one of its namespaces. Namespaces are of this server's users only, whatever their
    /// expressions match (MSC3905).
    pub fn is_user(&self, user_id: &str) -> bool {
        self.sender == user_id || self.is_local(user_id) && contains(&self.users, user_id)
    }

    /// Whether the service may act as a user.
    pub fn may_be(&self, user_id: &UserId) -> bool {
        self.is_user(user_id.as_str())
    }

    /// Whether nobody else may have this name.
    pub fn owns_user(&self, user_id: &UserId) -> bool {
        self.has_alone(user_id.as_str())
    }

    fn has_alone(&self, user_id: &str) -> bool {
        self.sender == user_id || self.is_local(user_id) && owns(&self.users, user_id)
    }

    fn is_local(&self, user_id: &str) -> bool {
        user_id.split_once(':').is_some_and(|(_, server)| server == self.sender.server_name().as_str())
    }

    /// The id of one of its networks, unlike those of all other services.
    pub fn instance_id(&self, network_id: &str) -> String {
        format!("{}|{network_id}", self.id)
    }

    /// Whether it is to have messages to its users' devices (MSC4203): also without other things worth telling only now.
    pub(crate) fn wants_messages(&self) -> bool {
        self.receive_ephemeral || self.encryption
    }

    /// Whether messages to a user's devices are its own to receive, so that they are gone when it has them: nobody else can have that
    /// user, and it says that it decrypts what comes by transactions (MSC3202). The others ask for theirs by `/sync`.
    pub(crate) fn receives_for(&self, user_id: &str) -> bool {
        self.encryption && self.has_alone(user_id)
    }

    /// Whether an alias is in one of its namespaces.
    pub fn is_alias(&self, alias: &RoomAliasId) -> bool {
        contains(&self.aliases, alias.as_str())
    }

    /// Whether nobody else may have this alias.
    pub fn owns_alias(&self, alias: &RoomAliasId) -> bool {
        owns(&self.aliases, alias.as_str())
    }

    /// Whether a room is in one of its namespaces.
    pub fn is_room(&self, room_id: &RoomId) -> bool {
        contains(&self.rooms, room_id.as_str())
    }

    /// What it is interested in, by what the namespaces are of.
    pub fn namespaces(&self) -> [(&'static str, &[Namespace]); 3] {
        [("users", &self.users), ("aliases", &self.aliases), ("rooms", &self.rooms)]
    }

    /// Whether it looks at rooms by their aliases.
    pub(crate) fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }
}

fn contains(namespaces: &[Namespace], id: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.expression.is_match(id))
}

fn owns(namespaces: &[Namespace], id: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.exclusive && namespace.expression.is_match(id))
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const WHOLE: &str = "id: irc\nurl: http://127.0.0.1:9898/\nas_token: a\nhs_token: h\nsender_localpart: ircbot\n\
        rate_limited: false\nnamespaces:\n  users:\n    - exclusive: true\n      regex: '@irc_.*:example\\.org'\n  \
        aliases: null\n  rooms: []\nprotocols: [irc]\nde.sorunome.msc2409.push_ephemeral: true\n";

    fn parse(text: &str) -> Result<Registration, AppServiceError> {
        Registration::parse(text, "irc.yaml", server_name!("example.org"))
    }

    #[test]
    fn a_registration_is_read_and_matches_whole_ids() {
        let service = parse(WHOLE).unwrap();
        assert!(service.receive_ephemeral && !service.rate_limited);
        assert_eq!(service.users[0].expression(), "@irc_.*:example\\.org");
        assert!(service.is_user("@irc_ann:example.org") && service.is_user("@ircbot:example.org"));
        assert!(service.has_alone("@irc_ann:example.org"));
        assert!(!service.is_user("@irc_ann:example.org.evil"), "no part of an id matches");
        assert!(!service.is_user("x@irc_ann:example.org"));
        assert!(!service.is_user("@ann:example.org"));
    }

    #[test]
    fn users_of_other_servers_are_nobodys() {
        let service = parse(&WHOLE.replace(":example\\.org'", "'")).unwrap();
        assert!(service.is_user("@irc_ann:example.org") && service.has_alone("@irc_ann:example.org"));
        for stranger in ["@irc_ann:elsewhere.org", "@irc_ann:elsewhere.org:example.org", "@irc_ann"] {
            assert!(!service.is_user(stranger) && !service.has_alone(stranger), "{stranger}");
        }
    }

    #[test]
    fn devices_are_managed_by_either_name() {
        for (flag, managed) in
            [("device_management: true", true), ("io.element.msc4190: true", true), ("", false)]
        {
            let service = parse(&format!("{WHOLE}{flag}\n")).unwrap();
            assert_eq!(service.device_management, managed, "{flag}");
        }
    }

    #[test]
    fn only_who_decrypts_and_is_alone_takes_messages_away() {
        let receives = |text: &str| parse(text).unwrap().receives_for("@irc_ann:example.org");
        let encrypting = format!("{WHOLE}org.matrix.msc3202: true\n");
        assert!(receives(&encrypting));
        assert!(!receives(WHOLE), "it may ask for them by /sync");
        assert!(
            !receives(&encrypting.replace("exclusive: true", "exclusive: false")),
            "the user's own client does"
        );
        assert!(
            parse(&encrypting.replace("push_ephemeral: true", "push_ephemeral: false"))
                .unwrap()
                .wants_messages()
        );
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        let bad = WHOLE.replace("@irc_.*:example\\.org", "@irc_(");
        assert!(message(&bad).starts_with("irc.yaml:10:14: regex: "), "{}", message(&bad));
        let bad = WHOLE.replace("rate_limited: false", "rate_limited: perhaps");
        assert!(message(&bad).starts_with("irc.yaml:6:"), "{}", message(&bad));
        let bad = WHOLE.replace("as_token: a\n", "");
        assert!(message(&bad).contains("as_token"), "{}", message(&bad));
        let bad = WHOLE.replace("http://127.0.0.1:9898/", "ftp://x/");
        assert!(message(&bad).starts_with("irc.yaml:2:"), "{}", message(&bad));
        let bomb = WHOLE.replace("@irc_.*:example\\.org", "((a{100}){100}){100}");
        assert!(message(&bomb).contains("size limit"), "{}", message(&bomb));
    }
}
