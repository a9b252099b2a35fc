//! The proof of who makes a request (S-S API, "Request Authentication").

use http::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};

use crate::FederationError;

/// A header has at most this many bytes.
const MOST_BYTES: usize = 4_096;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XMatrix {
    /// Who asks.
    pub(crate) origin: OwnedServerName,
    /// Who is asked; older servers do not say.
    pub(crate) destination: Option<OwnedServerName>,
    /// The key that signed: `ed25519:…`.
    pub(crate) key: String,
    /// The signature, in unpadded base64.
    pub(crate) signature: String,
}

/// What is signed for a request.
pub(crate) fn signed_object(
    method: &Method,
    target: &str,
    origin: &ServerName,
    destination: &ServerName,
    content: Option<CanonicalJsonValue>,
) -> CanonicalJsonObject {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut object = CanonicalJsonObject::from([
        (String::from("method"), text(method.as_str())),
        (String::from("uri"), text(target)),
        (String::from("origin"), text(origin.as_str())),
        (String::from("destination"), text(destination.as_str())),
    ]);
    if let Some(content) = content {
        object.insert(String::from("content"), content);
    }
    object
}

/// The header for a signed object.
pub(crate) fn header(
    signed: &CanonicalJsonObject,
    origin: &ServerName,
    destination: &ServerName,
) -> Result<String, FederationError> {
    let signatures = signed.get("signatures").and_then(|signatures| signatures.as_object());
    let own = signatures.and_then(|signatures| signatures.get(origin.as_str()));
    let own = own.and_then(|own| own.as_object()).and_then(|own| own.first_key_value());
    let (key, signature) =
        own.ok_or_else(|| FederationError::Internal(String::from("a request without a signature")))?;
    let signature = signature.as_str().unwrap_or_default();
    Ok(format!(
        "X-Matrix origin=\"{origin}\",destination=\"{destination}\",key=\"{key}\",sig=\"{signature}\""
    ))
}

impl XMatrix {
    /// Reads the value of an `Authorization` header. Names of parameters are read in either case of letters, values with and
    /// without quotes, as the grammar of RFC 9110 has them.
    pub(crate) fn parse(header: &str) -> Result<Self, FederationError> {
        let bad =
            |reason: &str| FederationError::Unauthenticated(format!("the Authorization header {reason}"));
        if header.len() > MOST_BYTES {
            return Err(bad("is too long"));
        }
        let (scheme, mut rest) =
            header.trim().split_once(' ').ok_or_else(|| bad("is not one of X-Matrix"))?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(bad("is not one of X-Matrix"));
        }
        let (mut origin, mut destination, mut key, mut signature) = (None, None, None, None);
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let (name, value, behind) = parameter(rest).ok_or_else(|| bad("has a parameter that is none"))?;
            rest = behind;
            let place = match name.to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key,
                "sig" => &mut signature,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(bad("says one thing twice"));
            }
        }
        let name = |text: String| ServerName::parse(text).map_err(|_| bad("names what is no server"));
        Ok(Self {
            origin: name(origin.ok_or_else(|| bad("has no origin"))?)?,
            destination: destination.map(name).transpose()?,
            key: key.ok_or_else(|| bad("has no key"))?,
            signature: signature.ok_or_else(|| bad("has no sig"))?,
        })
    }
}

/// The first parameter of a list: name, value, and what comes behind it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim();
    let rest = rest.trim_start_matches([' ', '\t']);
    if name.is_empty() || name.contains([' ', ',', '"']) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
        let (value, behind) = rest.split_at_checked(end)?;
        return Some((name, value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(header: &str) -> Option<(String, Option<String>, String, String)> {
        let XMatrix { origin, destination, key, signature } = XMatrix::parse(header).ok()?;
        Some((origin.to_string(), destination.map(|name| name.to_string()), key, signature))
    }

    #[test]
    fn every_spelling_is_read() {
        let expected = |destination: Option<&str>| {
            let texts = ["a.example:8448", "ed25519:k", "c2ln"].map(str::to_owned);
            let [origin, key, signature] = texts;
            Some((origin, destination.map(str::to_owned), key, signature))
        };
        for header in [
            r#"X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="c2ln""#,
            r#"x-matrix origin=a.example:8448,destination=b.example,key="ed25519:k",sig=c2ln"#,
            r#"X-Matrix  SIG="c2ln" , Key = "ed25519:k", future="x=\"y\",z", Destination="b.example", ORIGIN="a.example:8448""#,
            r#"X-Matrix origin="a\.example:8448",destination=b.example,key=ed25519:k,sig=c2ln,"#,
        ] {
            assert_eq!(parsed(header), expected(Some("b.example")), "{header}");
        }
        assert_eq!(parsed("X-Matrix origin=a.example:8448,key=ed25519:k,sig=c2ln"), expected(None));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for header in [
            "",
            "Bearer abc",
            "X-Matrix",
            "X-Matrix origin=a.example",
            "X-Matrix origin=a.example,key=k,sig=s,sig=t",
            "X-Matrix origin=\"a.example,key=k,sig=s",
            "X-Matrix origin=a b.example,key=k,sig=s",
            "X-Matrix origin=,key=k,sig=s",
            "X-Matrix origin=http://a,key=k,sig=s",
            "X-Matrix =a,key=k,sig=s",
        ] {
            assert_eq!(parsed(header), None, "{header}");
        }
        assert_eq!(parsed(&format!("X-Matrix origin=a,key=k,sig={}", "a".repeat(5_000))), None);
    }
}
