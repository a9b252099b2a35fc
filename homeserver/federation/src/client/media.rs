//! Files of other servers (S-S API, "Content Repository").

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ruma::ServerName;
use tokio::time::timeout;
use url::{Position, Url};

use super::{
    Ask, Client,
    calls::{path, with_query},
    in_words, refusal,
};
use crate::FederationError;

/// What stands before the file, all headers and the JSON object.
const MOST_HEAD_BYTES: usize = 64 * 1024;
/// How long an upload that was promised there is waited for, in ms.
const PATIENCE: &str = "20000";
/// The most redirects that are followed to one file, beside that of the server itself.
const MOST_REDIRECTS: usize = 5;

/// A file that another server gives.
pub struct RemoteFile {
    /// What its bytes are said to be.
    pub content_type: Option<String>,
    /// What it is called.
    pub filename: Option<String>,
    /// Its bytes, as they come.
    pub body: stream::BoxStream<'static, Result<Bytes, String>>,
    /// Where it is, if that is elsewhere.
    location: Option<String>,
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RemoteFile").finish_non_exhaustive()
    }
}

impl Client {
    /// A file of another server. One that does not know the signed request is asked as clients were before there was one.
    pub async fn media(&self, server: &ServerName, media_id: &str) -> Result<RemoteFile, FederationError> {
        let target = with_query(path(&["v1", "media", "download", media_id]), &[("timeout_ms", PATIENCE)]);
        match self.open(server, Ask::get(target)).await {
            Ok((headers, body)) => {
                let mut file = multipart(server, &headers, bytes_of(body).boxed()).await?;
                match file.location.take() {
                    Some(location) => self.elsewhere(server, &location).await,
                    None => Ok(file),
                }
            }
            Err(FederationError::Status { status: 404, errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                let path = path(&["media", "v3", "download", server.as_str(), media_id]);
                let path = path.replacen("/_matrix/federation", "/_matrix", 1);
                let target = with_query(path, &[("allow_remote", "false"), ("timeout_ms", PATIENCE)]);
                let (headers, body) = self.open(server, Ask::get(target)).await?;
                Ok(described(&headers, bytes_of(body).boxed()))
            }
            Err(error) => Err(error),
        }
    }

    /// A file that a server has elsewhere, such as in a store of its own. There nobody is told who asks.
    async fn elsewhere(&self, server: &ServerName, location: &str) -> Result<RemoteFile, FederationError> {
        let nowhere = || bad_answer(server, "it redirects to nowhere");
        let mut place = Url::parse(location).map_err(|_| nowhere())?;
        for _ in 0..=MOST_REDIRECTS {
            let answer = timeout(self.inner.timeout, self.get_unsigned(server, &place)).await;
            let answer = answer.map_err(|_| FederationError::TimedOut(server.to_owned()))??;
            let (head, body) = answer.into_parts();
            if head.status.is_success() {
                return Ok(described(&head.headers, bytes_of(body).boxed()));
            }
            if !head.status.is_redirection() {
                return Err(refusal(server, head.status, &[]));
            }
            let next = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
            place = next.and_then(|next| place.join(next).ok()).ok_or_else(nowhere)?;
        }
        Err(bad_answer(server, "it redirects too often"))
    }

    /// Asks where a server redirects to: by HTTPS, at addresses that the policy lets through, and only hosts with which this server
    /// may speak.
    async fn get_unsigned(
        &self,
        server: &ServerName,
        place: &Url,
    ) -> Result<Response<Incoming>, FederationError> {
        let bad = |reason: &str| bad_answer(server, reason);
        let has_secrets = !place.username().is_empty() || place.password().is_some();
        if place.scheme() != "https" || has_secrets {
            return Err(bad("it redirects to what is not asked"));
        }
        // With the port, so that nothing is looked up but the addresses of the host.
        let host = place.host_str().unwrap_or_default();
        let authority = format!("{host}:{}", place.port_or_known_default().unwrap_or(443));
        let host = ServerName::parse(authority.as_str()).map_err(|_| bad("it redirects to nowhere"))?;
        self.inner.policy.check_outbound(&host)?;
        let target = &place[Position::BeforePath..Position::AfterQuery];
        let request = Request::get(format!("https://{authority}{target}")).body(Full::default());
        let request = request.map_err(|_| bad("it redirects to nowhere"))?;
        let answer = self.http(&host).request(request).await;
        let answer = answer.map_err(|error| FederationError::Unreachable {
            server: server.to_owned(),
            reason: format!("it redirects to {authority}: {}", in_words(&error)),
        })?;
        if answer.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(bad("it is compressed, which was not asked for"));
        }
        Ok(answer)
    }
}

fn bad_answer(server: &ServerName, reason: &str) -> FederationError {
    FederationError::BadAnswer { server: server.to_owned(), reason: reason.to_owned() }
}

fn described(headers: &HeaderMap, body: stream::BoxStream<'static, Result<Bytes, String>>) -> RemoteFile {
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    RemoteFile {
        content_type: text(header::CONTENT_TYPE),
        filename: text(header::CONTENT_DISPOSITION).and_then(|disposition| filename(&disposition)),
        body,
        location: None,
    }
}

/// The name in a `Content-Disposition` (RFC 6266), preferably the one that can have any characters.
fn filename(disposition: &str) -> Option<String> {
    let parameters = parameters(disposition);
    let value = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str())
    };
    let extended = value("filename*").and_then(|value| {
        let encoded =
            value.get("utf-8''".len()..).filter(|_| value.to_ascii_lowercase().starts_with("utf-8''"))?;
        percent_encoding::percent_decode_str(encoded).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    });
    let plain = || value("filename").map(str::to_owned);
    extended.or_else(plain).filter(|name| !name.is_empty())
}

/// The parameters behind the first word of a header (RFC 9110, section 5.6.6). Values may be in quotes, with anything in them.
fn parameters(header: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, behind)) = rest.split_once('=') {
        // What stands before it has no value.
        let name = name.rsplit(';').next().unwrap_or(name).trim();
        let behind = behind.trim_start();
        let (value, next) = if let Some(quoted) = behind.strip_prefix('"') {
            unquoted(quoted)
        } else {
            let (value, next) = behind.split_once(';').unwrap_or((behind, ""));
            (value.trim().to_owned(), next)
        };
        found.push((name, value));
        rest = next;
    }
    found
}

/// What stands before the closing quotation mark, and what stands behind it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return (value, characters.as_str()),
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, "")
}

fn bytes_of(body: Incoming) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    body.into_data_stream().map(|bytes| bytes.map_err(|error| error.to_string()))
}

/// The file in a body of several parts, of which it is the second.
pub(crate) async fn multipart(
    server: &ServerName,
    headers: &HeaderMap,
    body: stream::BoxStream<'static, Result<Bytes, String>>,
) -> Result<RemoteFile, FederationError> {
    let bad = |reason: &str| bad_answer(server, reason);
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(boundary).ok_or_else(|| bad("it is not multipart/mixed"))?;
    let mut parts = Parts { body, ahead: BytesMut::new(), boundary };
    let headers = parts.skip_to_file().await.map_err(|reason| bad(&reason))?;
    let location = headers.get(header::LOCATION).map(|value| value.to_str().map(str::to_owned));
    let location = location.transpose().map_err(|_| bad("it redirects to nowhere"))?;
    Ok(RemoteFile { location, ..described(&headers, parts.file().boxed()) })
}

/// The boundary of a `multipart/mixed` body (RFC 2046, section 5.1.1).
fn boundary(content_type: &str) -> Option<String> {
    let (essence, _) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let mut parameters = parameters(content_type).into_iter();
    let (_, boundary) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// The parts of a body, read one after the other.
struct Parts {
    body: stream::BoxStream<'static, Result<Bytes, String>>,
    /// What was read and not used yet.
    ahead: BytesMut,
    boundary: String,
}

impl Parts {
    async fn more(&mut self) -> Result<(), String> {
        let bytes = self.body.next().await.ok_or("it ends too early")??;
        self.ahead.extend_from_slice(&bytes);
        Ok(())
    }

    /// Reads until `end`, which is dropped. Answers what stands before it.
    async fn read_to(&mut self, end: &[u8]) -> Result<BytesMut, String> {
        loop {
            if let Some(at) = find(&self.ahead, end) {
                let before = self.ahead.split_to(at);
                self.ahead.advance(end.len());
                return Ok(before);
            }
            if self.ahead.len() > MOST_HEAD_BYTES {
                return Err(String::from("too much stands before the file"));
            }
            self.more().await?;
        }
    }

    /// The second part is the file. Answers its headers.
    async fn skip_to_file(&mut self) -> Result<HeaderMap, String> {
        let delimiter = format!("--{}", self.boundary);
        self.read_to(delimiter.as_bytes()).await?;
        self.read_to(format!("\r\n{delimiter}").as_bytes()).await?;
        // What may stand behind a delimiter on its line, and then the headers, of which there may be none.
        self.read_to(b"\r\n").await?;
        while self.ahead.len() < 2 {
            self.more().await?;
        }
        if self.ahead.starts_with(b"\r\n") {
            self.ahead.advance(2);
            return Ok(HeaderMap::new());
        }
        Ok(parsed(&self.read_to(b"\r\n\r\n").await?))
    }

    /// The bytes up to the next delimiter.
    fn file(self) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
        let end = format!("\r\n--{}", self.boundary).into_bytes();
        stream::try_unfold(Some(self), move |parts| {
            let end = end.clone();
            async move {
                let Some(mut parts) = parts else { return Ok(None) };
                loop {
                    if let Some(at) = find(&parts.ahead, &end) {
                        let last = parts.ahead.split_to(at).freeze();
                        return Ok(Some((last, None)));
                    }
                    // The delimiter may have begun.
                    let surely = parts.ahead.len().saturating_sub(end.len());
                    if surely > 0 {
                        let bytes = parts.ahead.split_to(surely).freeze();
                        return Ok(Some((bytes, Some(parts))));
                    }
                    parts.more().await?;
                }
            }
        })
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

fn parsed(lines: &[u8]) -> HeaderMap {
    let lines = lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
            let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    /// A body in pieces of a size.
    fn parts(body: &str, piece: usize) -> Parts {
        let pieces: Vec<Result<Bytes, String>> =
            body.as_bytes().chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Parts { body: stream::iter(pieces).boxed(), ahead: BytesMut::new(), boundary: String::from("b") }
    }

    async fn file(body: &str, piece: usize) -> Result<(HeaderMap, Vec<u8>), String> {
        let mut parts = parts(body, piece);
        let headers = parts.skip_to_file().await?;
        let bytes: Vec<Bytes> = parts.file().try_collect().await?;
        Ok((headers, bytes.concat()))
    }

    #[tokio::test]
    async fn the_file_is_found_however_the_bytes_come() {
        let body = "preamble\r\n--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b  \r\nContent-Type: text/plain\r\n\
                    Content-Disposition: inline; filename=x\r\n\r\nhello\r\n--\r\n-b\r\nworld\r\n--b--\r\n";
        for piece in 1..body.len() {
            let (headers, bytes) = file(body, piece).await.unwrap();
            assert_eq!(headers.get("content-type").unwrap(), "text/plain");
            assert_eq!(bytes, b"hello\r\n--\r\n-b\r\nworld", "{piece}");
        }
        let without_headers = "--b\r\n\r\n{}\r\n--b\r\n\r\n\r\n--b--";
        assert_eq!(file(without_headers, 3).await.unwrap().1, b"");
    }

    #[tokio::test]
    async fn what_breaks_off_is_an_error() {
        for body in ["", "--b\r\n", "--b\r\n\r\n{}\r\n--b\r\n", "--b\r\n\r\n{}\r\n--b\r\nA: b\r\n\r\nhello"] {
            file(body, 4).await.unwrap_err();
        }
        file(&"x".repeat(MOST_HEAD_BYTES * 2), 1_000).await.unwrap_err();
    }

    #[test]
    fn names_are_read() {
        assert_eq!(filename("inline; filename=\"a b.png\"").as_deref(), Some("a b.png"));
        let both = "attachment; filename=\"_.png\"; filename*=UTF-8''%C3%A9.png";
        assert_eq!(filename(both).as_deref(), Some("é.png"));
        let quoted = "attachment; x; filename=\"a; b=\\\"c\\\".png\" ; y=z";
        assert_eq!(filename(quoted).as_deref(), Some("a; b=\"c\".png"));
        assert_eq!(filename("inline; filename=\"never closed").as_deref(), Some("never closed"));
        assert_eq!(filename("inline"), None);
        assert_eq!(filename("inline; filename*=utf-8''%ff"), None);
    }

    #[test]
    fn boundaries_are_read() {
        assert_eq!(boundary("multipart/mixed; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Mixed; x=y; Boundary=\"a b\"").as_deref(), Some("a b"));
        for other in ["text/plain; boundary=a", "multipart/mixed", "multipart/mixed; boundary="] {
            assert_eq!(boundary(other), None);
        }
    }
}
