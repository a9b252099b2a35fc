//! Which servers a room shuts out (C-S API, "Server Access Control Lists").

use std::net::Ipv4Addr;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::RoomError;

/// The content of `m.room.server_acl`. What is not of the right form counts as not there.
#[derive(Debug, Default, Deserialize)]
struct AccessList {
    #[serde(default, deserialize_with = "or_absent")]
    allow_ip_literals: Option<bool>,
    #[serde(default, deserialize_with = "or_absent")]
    allow: Option<Vec<serde_json::Value>>,
    #[serde(default, deserialize_with = "or_absent")]
    deny: Option<Vec<serde_json::Value>>,
}

fn or_absent<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Refuses an access list that is not of the right form: it would shut out other servers than its author means, or all of them.
pub(crate) fn check_list(content: &CanonicalJsonObject) -> Result<(), RoomError> {
    let bad =
        |field: &str| Err(RoomError::BadEvent(format!("{field} of an access list is not of the right form")));
    for field in ["allow", "deny"] {
        match content.get(field) {
            None => {}
            Some(CanonicalJsonValue::Array(globs)) if globs.iter().all(|glob| glob.as_str().is_some()) => {}
            Some(_) => return bad(field),
        }
    }
    match content.get("allow_ip_literals") {
        None | Some(CanonicalJsonValue::Bool(_)) => Ok(()),
        Some(_) => bad("allow_ip_literals"),
    }
}

/// Whether a room with this access list admits a server. Names are compared without their ports and in either case of letters; one that
/// ends with a dot leads to the same server as the one without.
pub fn server_is_allowed(content: &RawValue, server: &ServerName) -> bool {
    let list: AccessList = serde_json::from_str(content.get()).unwrap_or_default();
    let host = server.host().trim_end_matches('.').to_ascii_lowercase();
    let is_literal = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    if is_literal && list.allow_ip_literals == Some(false) {
        return false;
    }
    let names = |globs: &Option<Vec<serde_json::Value>>| {
        let globs = globs.iter().flatten().filter_map(|glob| glob.as_str());
        globs.into_iter().any(|glob| matches_glob(&glob.to_ascii_lowercase(), &host))
    };
    !names(&list.deny) && names(&list.allow)
}

/// Whether a text is what a pattern says: `*` is any number of characters, `?` is one. Takes at most as many steps as the product of
/// both lengths.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut reached) = (0, 0);
    // Where the last star stands, and up to where it was taken to reach.
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = text.get(reached) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, reached));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == character => {
                at += 1;
                reached += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                at = place + 1;
                reached = taken + 1;
            }
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|character| *character == '*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allows(list: serde_json::Value, server: &str) -> bool {
        let list = serde_json::value::to_raw_value(&list).expect("JSON");
        server_is_allowed(&list, <&ServerName>::try_from(server).expect("a server name"))
    }

    #[test]
    fn deny_wins_over_allow() {
        let list = json!({ "allow": ["*"], "deny": ["*.evil.example", "bad?.example"] });
        assert!(allows(list.clone(), "good.example"));
        assert!(allows(list.clone(), "evil.example"));
        assert!(!allows(list.clone(), "very.evil.example:8448"));
        assert!(!allows(list.clone(), "BAD1.example"));
        assert!(!allows(list.clone(), "very.evil.example."));
        assert!(!allows(list.clone(), "bad1.example.:8448"));
        assert!(allows(list, "bad12.example"));
    }

    #[test]
    fn nobody_is_allowed_who_is_not_named() {
        for list in
            [json!({}), json!({ "allow": [] }), json!({ "allow": "*" }), json!({ "allow": [7, null] })]
        {
            assert!(!allows(list, "good.example"));
        }
        assert!(allows(json!({ "allow": [7, "good.*"], "deny": 3 }), "good.example"));
    }

    #[test]
    fn addresses_can_be_shut_out() {
        for server in ["1.2.3.4", "1.2.3.4:80", "[2001:db8::1]", "[2001:db8::1]:8448"] {
            assert!(allows(json!({ "allow": ["*"] }), server));
            assert!(allows(json!({ "allow": ["*"], "allow_ip_literals": "no" }), server));
            assert!(!allows(json!({ "allow": ["*"], "allow_ip_literals": false }), server));
        }
        assert!(allows(json!({ "allow": ["*"], "allow_ip_literals": false }), "1.2.3.4.example"));
    }

    #[test]
    fn patterns_that_are_made_to_be_slow_are_not() {
        let pattern = "*a".repeat(100);
        assert!(!matches_glob(&pattern, &"a".repeat(99)));
        assert!(matches_glob(&pattern, &"a".repeat(250)));
        assert!(matches_glob("**", ""));
        assert!(!matches_glob("", "a"));
    }
}
