//! The headers of what is given out: other people's files, which must not become part of a page.

use std::fmt::Write as _;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::layers::Uncompressed;

/// What browsers may show by themselves (C-S API, "Serving inline content"); everything else is offered as a file.
const SHOWN: [&str; 26] = [
    "application/json",
    "application/ld+json",
    "audio/aac",
    "audio/flac",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/wave",
    "audio/webm",
    "audio/x-flac",
    "audio/x-pn-wav",
    "audio/x-wav",
    "image/apng",
    "image/avif",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "text/css",
    "text/csv",
    "text/plain",
    "video/mp4",
    "video/ogg",
    "video/quicktime",
    "video/webm",
];
const SANDBOX: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                       style-src 'unsafe-inline'; media-src 'self'; object-src 'self';";

/// A file that is given out.
#[derive(Clone, Debug)]
pub(crate) struct Described<'a> {
    /// What its bytes are said to be.
    pub(crate) content_type: Option<&'a str>,
    /// What it is called.
    pub(crate) filename: Option<&'a str>,
    /// Its tag, with the quotation marks.
    pub(crate) etag: &'a str,
    /// Whether caches that others share may keep it.
    pub(crate) public: bool,
}

impl Described<'_> {
    pub(super) fn content_type(&self) -> HeaderValue {
        let given = self.content_type.and_then(|content_type| HeaderValue::from_str(content_type).ok());
        given.unwrap_or(HeaderValue::from_static("application/octet-stream"))
    }

    /// RFC 6266.
    pub(super) fn content_disposition(&self) -> HeaderValue {
        let essence = self.content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_shown = SHOWN.iter().any(|shown| shown.eq_ignore_ascii_case(essence));
        let mut disposition = String::from(if is_shown { "inline" } else { "attachment" });
        if let Some(filename) = self.filename {
            disposition.push_str("; ");
            disposition.push_str(&named(filename));
        }
        HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"))
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let caching: &'static str = if self.public {
            "public, max-age=31536000, immutable"
        } else {
            "private, max-age=31536000, immutable"
        };
        let fixed: [(HeaderName, &'static str); 7] = [
            (header::CACHE_CONTROL, caching),
            (header::CONTENT_SECURITY_POLICY, SANDBOX),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
            (HeaderName::from_static("x-robots-tag"), "noindex, nofollow, noarchive, noimageindex"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::ACCEPT_RANGES, "bytes"),
        ];
        let mut headers: HeaderMap =
            fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        headers.insert(header::CONTENT_TYPE, self.content_type());
        headers.insert(header::CONTENT_DISPOSITION, self.content_disposition());
        if let Ok(etag) = HeaderValue::from_str(self.etag) {
            headers.insert(header::ETAG, etag);
        }
        headers
    }

    /// The answer to somebody who has it already, if the headers of the request say so.
    pub(super) fn known(&self, request: &HeaderMap) -> Option<Response> {
        let known = request.get(header::IF_NONE_MATCH)?.to_str().ok()?;
        let is_known = known.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag
        });
        is_known.then(|| (StatusCode::NOT_MODIFIED, self.headers()).into_response())
    }
}

/// An answer whose bytes go out as they are.
pub(super) fn respond(status: StatusCode, headers: HeaderMap, size: u64, body: Body) -> Response {
    let mut response = (status, headers, body).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response.extensions_mut().insert(Uncompressed);
    response
}

/// `filename`, and `filename*` (RFC 8187) for what ASCII does not have.
fn named(filename: &str) -> String {
    let plain: String = filename
        .chars()
        .map(|character| match character {
            '"' | '\\' => '_',
            ' '..='~' => character,
            _ => '_',
        })
        .collect();
    if plain == filename {
        return format!("filename=\"{plain}\"");
    }
    let mut encoded = String::new();
    for byte in filename.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("filename=\"{plain}\"; filename*=utf-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(content_type: &str, filename: Option<&str>) -> String {
        let file = Described { content_type: Some(content_type), filename, etag: "\"x\"", public: false };
        file.content_disposition().to_str().unwrap().to_owned()
    }

    #[test]
    fn only_harmless_types_are_shown() {
        assert_eq!(disposition("image/png", None), "inline");
        assert_eq!(disposition("Text/Plain; charset=utf-8", None), "inline");
        for other in ["text/html", "image/svg+xml", "application/pdf", "", "image/png/../svg"] {
            assert_eq!(disposition(other, None), "attachment", "{other}");
        }
    }

    #[test]
    fn names_cannot_become_headers() {
        assert_eq!(disposition("image/png", Some("a b.png")), "inline; filename=\"a b.png\"");
        assert_eq!(
            disposition("image/png", Some("é\"\r\n.png")),
            "inline; filename=\"____.png\"; filename*=utf-8''%C3%A9%22%0D%0A.png"
        );
    }
}
