//! What is private here and reads what other servers say, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

use bytes::Bytes;
use entente_environment::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};

use crate::{client::media, discovery::WellKnown, json, keys::answer::KeyAnswer, x_matrix::XMatrix};

/// Reads the value of an `Authorization` header. Answers the origin, the destination, the key and the signature.
pub fn x_matrix(header: &str) -> Option<(String, Option<String>, String, String)> {
    let XMatrix { origin, destination, key, signature } = XMatrix::parse(header).ok()?;
    Some((origin.to_string(), destination.map(|name| name.to_string()), key, signature))
}

/// Reads what a server says of its keys, and answers how many are good now.
pub fn key_answer(server: &ServerName, answer: CanonicalJsonObject) -> Option<usize> {
    KeyAnswer::verify(server, answer).ok().map(|answer| answer.current.len())
}

/// Reads the body of a request. Answers what is read of it, and the text that was signed where that is more.
pub fn signed_body(body: &[u8]) -> Option<(CanonicalJsonValue, Option<String>)> {
    json::signed(body).ok().map(|body| (body.value, body.text))
}

/// Reads `/.well-known/matrix/server`. Answers where the server is, and for how many ms that holds.
pub fn well_known(headers: &HeaderMap, body: &[u8]) -> (Option<String>, u64) {
    let now = Timestamp(1_700_000_000_000);
    let read = WellKnown::read(headers, body, 0, now);
    let lifetime = read.until.millis() - now.millis();
    (read.delegated.map(|authority| authority.to_string()), lifetime)
}

/// Reads a file that comes with its description, in pieces of at most `piece` bytes. Answers its type, its name and its bytes.
pub fn file(
    headers: &HeaderMap,
    body: &[u8],
    piece: usize,
) -> Option<(Option<String>, Option<String>, Vec<u8>)> {
    let server = <&ServerName>::try_from("example.org").ok()?;
    let pieces: Vec<Result<Bytes, String>> =
        body.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let read = async {
        let file = media::multipart(server, headers, stream::iter(pieces).boxed()).await.ok()?;
        let bytes: Vec<Bytes> = file.body.try_collect().await.ok()?;
        Some((file.content_type, file.filename, bytes.concat()))
    };
    futures_util::FutureExt::now_or_never(read)?
}
