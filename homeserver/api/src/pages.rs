//! The few pages that people see: plain HTML, no script from elsewhere, nothing inline.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

const STYLE: &str = include_str!("pages/style.css");
const LOGIN_SCRIPT: &str = include_str!("pages/login.js");
const AUTHENTICATION_DONE_SCRIPT: &str = include_str!("pages/authentication_done.js");
/// Only what this server sends itself may be shown or run, and only the page itself may be sent to.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'",
);

/// A page with the headers that keep it to itself. Not framed by others: [`HeaderName`] `X-Frame-Options`.
pub(crate) fn page(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, html).into_response()
}

/// A style sheet or script of the pages; `None` if there is none of this name.
pub(crate) fn asset(name: &str) -> Option<Response> {
    let (content_type, text) = match name {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "login.js" => ("text/javascript; charset=utf-8", LOGIN_SCRIPT),
        "authentication_done.js" => ("text/javascript; charset=utf-8", AUTHENTICATION_DONE_SCRIPT),
        _ => return None,
    };
    let nosniff = (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), nosniff];
    Some((headers, text).into_response())
}

/// Text that may stand in HTML, also inside quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape(r#"<a href="x">'&"#), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
