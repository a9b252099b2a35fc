//! Media: uploads, also promised ones, downloads and their ranges, small pictures, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Cursor, time::Duration};

use entente_tests::{Answer, Authority, Caller, Server, User, segment};
use image::{DynamicImage, Frame, ImageFormat, Rgba, RgbaImage, codecs::gif::GifEncoder};
use reqwest::{Method, header};
use serde_json::{Value, json};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const MEDIA: &str = "/_matrix/client/v1/media";

/// Puts a file up. Answers `{server}/{media id}`.
async fn upload(user: &User, content_type: &str, filename: &str, bytes: Vec<u8>) -> String {
    let path = format!("{UPLOAD}?filename={}", segment(filename));
    let request = user.request(Method::POST, &path).header(header::CONTENT_TYPE, content_type).body(bytes);
    address(&Answer::to(request).await.ok()["content_uri"])
}

fn address(uri: &Value) -> String {
    uri.as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

struct Got {
    status: u16,
    headers: header::HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

async fn get(caller: &Caller, path: &str, headers: &[(header::HeaderName, &str)]) -> Got {
    let mut request = caller.request(Method::GET, path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Got { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|number| b"0123456789abcdef\n"[number % 17]).collect()
}

fn picture(width: u32, height: u32) -> DynamicImage {
    let shade = |at: u32| u8::try_from(at % 256).unwrap();
    let colour = |x: u32, y: u32| Rgba([shade(x), shade(y), 90, 255]);
    DynamicImage::ImageRgba8(RgbaImage::from_fn(width, height, colour))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let picture = if format == ImageFormat::Jpeg {
        DynamicImage::ImageRgb8(picture.to_rgb8())
    } else {
        picture.clone()
    };
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn moving(width: u32, height: u32, frames: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for number in 0..frames {
        let colour = Rgba([number * 40, 255 - number * 40, 0, 255]);
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(width, height, colour))).unwrap();
    }
    drop(encoder);
    bytes
}

#[tokio::test]
async fn files_come_back_as_they_went() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let file = text(300_000);
    let place = upload(&alice, "text/plain; charset=utf-8", "compte rendu é.txt", file.clone()).await;
    let path = format!("{MEDIA}/download/{place}");
    let got = get(&bob, &path, &[(header::ACCEPT_ENCODING, "gzip")]).await;
    assert_eq!((got.status, &got.bytes), (200, &file));
    for (name, expected) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "300000"),
        ("content-encoding", ""),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("cache-control", "private, max-age=31536000, immutable"),
        (
            "content-disposition",
            "inline; filename=\"compte rendu _.txt\"; filename*=utf-8''compte%20rendu%20%C3%A9.txt",
        ),
    ] {
        assert_eq!(got.header(name), expected, "{name}");
    }
    assert!(got.header("content-security-policy").contains("sandbox"));
    let named = get(&bob, &format!("{path}/other.txt"), &[]).await;
    assert_eq!(named.header("content-disposition"), "inline; filename=\"other.txt\"");

    // A download that broke off goes on.
    let etag = got.header("etag").to_owned();
    let rest = [(header::RANGE, "bytes=100000-"), (header::IF_RANGE, etag.as_str())];
    let rest = get(&bob, &path, &rest).await;
    assert_eq!((rest.status, rest.header("content-range")), (206, "bytes 100000-299999/300000"));
    assert_eq!(rest.bytes, file[100_000..]);
    let other = [(header::RANGE, "bytes=100000-"), (header::IF_RANGE, "\"other\"")];
    assert_eq!(get(&bob, &path, &other).await.status, 200);
    let last = get(&bob, &path, &[(header::RANGE, "bytes=-3")]).await;
    assert_eq!((last.status, last.bytes.as_slice()), (206, &file[299_997..]));
    let beyond = get(&bob, &path, &[(header::RANGE, "bytes=300000-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */300000"));
    assert_eq!(get(&bob, &path, &[(header::IF_NONE_MATCH, &etag)]).await.status, 304);

    // What could be part of a page is offered as a file, whatever it is called.
    for content_type in ["text/html", "image/svg+xml", "application/x-unknown"] {
        let place = upload(&alice, content_type, "a.html", b"<script>alert(1)</script>".to_vec()).await;
        let got = get(&bob, &format!("{MEDIA}/download/{place}"), &[]).await;
        assert_eq!(got.header("content-disposition"), "attachment; filename=\"a.html\"");
    }
    let empty = upload(&alice, "text/plain", "", Vec::new()).await;
    let empty = get(&bob, &format!("{MEDIA}/download/{empty}"), &[]).await;
    assert_eq!((empty.status, empty.bytes.len(), empty.header("content-disposition")), (200, 0, "inline"));
}

#[tokio::test]
async fn media_need_a_token_and_a_place() {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_MEDIA__MAX_UPLOAD_SIZE", "100 kB"),
        ("ENTENTE_MEDIA__MAX_USER_STORAGE", "150 kB"),
    ]);
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let anybody = Caller::new(&server.base_url, None);
    let place = upload(&alice, "text/plain", "a", text(90_000)).await;
    anybody.get(&format!("{MEDIA}/download/{place}")).await.refused(401, "M_MISSING_TOKEN");
    anybody.post(UPLOAD, &json!({})).await.refused(401, "M_MISSING_TOKEN");
    for old in ["download", "thumbnail"] {
        let path = format!("/_matrix/media/v3/{old}/{place}?width=32&height=32");
        anybody.get(&path).await.refused(404, "M_NOT_FOUND");
    }
    assert_eq!(alice.get(&format!("{MEDIA}/config")).await.ok(), json!({ "m.upload.size": 100_000 }));
    assert_eq!(alice.get("/_matrix/media/v3/config").await.ok()["m.upload.size"], 100_000);

    let put_up = async |user: &User, size: usize| {
        Answer::to(user.request(Method::POST, UPLOAD).body(text(size))).await
    };
    put_up(&alice, 100_001).await.refused(413, "M_TOO_LARGE");
    // Also when the size is not told.
    let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(text(10_000))));
    let unsized_body = bob.request(Method::POST, UPLOAD).body(reqwest::Body::wrap_stream(chunks));
    Answer::to(unsized_body).await.refused(413, "M_TOO_LARGE");
    put_up(&alice, 60_001).await.refused(403, "M_FORBIDDEN");
    let chunks = futures_util::stream::iter((0..7).map(|_| Ok::<_, std::io::Error>(text(10_000))));
    let unsized_body = alice.request(Method::POST, UPLOAD).body(reqwest::Body::wrap_stream(chunks));
    Answer::to(unsized_body).await.refused(403, "M_FORBIDDEN");
    put_up(&alice, 60_000).await.ok();
    put_up(&alice, 1).await.refused(403, "M_FORBIDDEN");
    put_up(&bob, 100_000).await.ok();

    let name = alice.id.split_once(':').unwrap().1;
    for (path, status, errcode) in [
        (format!("{MEDIA}/download/{name}/nothing"), 404, "M_NOT_FOUND"),
        (format!("{MEDIA}/download/{name}/..%2f..%2fsecret"), 404, "M_NOT_FOUND"),
        (format!("{MEDIA}/download/{name}/{}", "a".repeat(300)), 404, "M_NOT_FOUND"),
        (format!("{MEDIA}/download/not%20a%20server/a"), 400, "M_INVALID_PARAM"),
        (format!("{MEDIA}/download/elsewhere.invalid/a?allow_remote=false"), 404, "M_NOT_FOUND"),
        (format!("{MEDIA}/thumbnail/{place}"), 400, "M_INVALID_PARAM"),
        (format!("{MEDIA}/thumbnail/{place}?width=a&height=3"), 400, "M_INVALID_PARAM"),
        (format!("{MEDIA}/download/{place}?timeout_ms=soon"), 400, "M_INVALID_PARAM"),
        (format!("{MEDIA}/download/{name}/%ff"), 400, "M_INVALID_PARAM"),
        (format!("{MEDIA}/download/{name}/a.b"), 404, "M_NOT_FOUND"),
        (format!("{MEDIA}/thumbnail/{place}?width=32&height=32"), 400, "M_UNKNOWN"),
    ] {
        alice.get(&path).await.refused(status, errcode);
    }
    let long = format!("{UPLOAD}?filename={}", "a".repeat(2_000));
    Answer::to(alice.request(Method::POST, &long).body("x")).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_promise_is_kept_once_and_by_who_made_it() {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_MEDIA__MAX_PENDING_UPLOADS", "2"),
        ("ENTENTE_MEDIA__PENDING_UPLOAD_LIFETIME", "5 s"),
    ]);
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let promise = async |user: &User| user.post("/_matrix/media/v1/create", &json!({})).await;
    let promised = promise(&alice).await.ok();
    assert!(promised["unused_expires_at"].is_u64());
    let place = address(&promised["content_uri"]);
    let path = format!("{MEDIA}/download/{place}?timeout_ms=");
    bob.get(&format!("{path}0")).await.refused(504, "M_NOT_YET_UPLOADED");
    let keep = |user: &User| Answer::to(user.request(Method::PUT, &format!("{UPLOAD}/{place}")).body("here"));
    keep(&bob).await.refused(403, "M_FORBIDDEN");
    // Who asks before waits for it.
    let waiting = tokio::spawn({
        let (bob, path) = (bob.clone(), format!("{path}10000"));
        async move { get(&bob, &path, &[]).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    keep(&alice).await.ok();
    let got = waiting.await.unwrap();
    assert_eq!((got.status, got.bytes.as_slice()), (200, b"here".as_slice()));
    keep(&alice).await.refused(409, "M_CANNOT_OVERWRITE_MEDIA");

    let lapsing = address(&promise(&alice).await.ok()["content_uri"]);
    promise(&alice).await.ok();
    let refusal = promise(&alice).await;
    assert_eq!((refusal.header("retry-after"), &refusal.body["retry_after_ms"]), ("60", &json!(60_000)));
    refusal.refused(429, "M_LIMIT_EXCEEDED");
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    promise(&alice).await.ok();
    let late = alice.request(Method::PUT, &format!("{UPLOAD}/{lapsing}")).body("late");
    Answer::to(late).await.refused(404, "M_NOT_FOUND");
    let nowhere = alice.request(Method::PUT, &format!("{UPLOAD}/elsewhere.invalid/a")).body("x");
    Answer::to(nowhere).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn small_pictures_are_made_of_large_ones() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let draw = async |place: &str, query: &str| {
        get(&alice, &format!("{MEDIA}/thumbnail/{place}?{query}"), &[]).await
    };
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
        let place = upload(&alice, "image/any", "a", encoded(&picture(1_000, 500), format)).await;
        for (query, expected) in [
            ("width=640&height=480&method=scale", (640, 320)),
            ("width=100&height=100&method=scale", (320, 160)),
            ("width=96&height=96&method=crop", (96, 96)),
            ("width=20&height=20&method=crop", (32, 32)),
            ("width=320&height=240", (320, 160)),
        ] {
            let got = draw(&place, query).await;
            assert_eq!(got.status, 200, "{format:?} {query} {}", String::from_utf8_lossy(&got.bytes));
            let drawn = image::load_from_memory(&got.bytes).unwrap();
            assert_eq!((drawn.width(), drawn.height()), expected, "{format:?} {query}");
            // Left and right are where they were.
            let (drawn, red) = (drawn.to_rgb8(), |x: u32, drawn: &image::RgbImage| drawn.get_pixel(x, 1)[0]);
            if expected == (640, 320) && format != ImageFormat::Gif {
                // Column 240 of the picture and column 270: (240, …) and (14, …).
                assert!(red(150, &drawn) > 200 && red(172, &drawn) < 60, "{format:?}");
            }
            assert!(got.header("content-type").starts_with("image/"));
            let again = draw(&place, query).await;
            assert_eq!((again.bytes, again.headers.get("etag")), (got.bytes, got.headers.get("etag")));
        }
    }
    // One that is small is given as it is.
    let small = encoded(&picture(20, 10), ImageFormat::Png);
    let place = upload(&alice, "image/png", "a.png", small.clone()).await;
    assert_eq!(draw(&place, "width=800&height=600&method=scale").await.bytes, small);

    let place = upload(&alice, "image/jpeg", "a.jpg", encoded(&picture(1_000, 900), ImageFormat::Jpeg)).await;
    let large = draw(&place, "width=500&height=500&method=crop").await;
    assert!(
        image::load_from_memory(&large.bytes).unwrap().width() >= 500,
        "never smaller than was asked for"
    );

    // What moves stands still for those who did not ask for it, however small it is.
    let tiny = moving(20, 20, 3);
    let place = upload(&alice, "image/gif", "a.gif", tiny.clone()).await;
    assert_eq!(draw(&place, "width=32&height=32&animated=true").await.bytes, tiny);
    let still = draw(&place, "width=32&height=32&animated=false").await;
    assert_eq!((still.status, still.header("content-type")), (200, "image/png"));

    let moves = moving(400, 400, 5);
    let place = upload(&alice, "image/gif", "a.gif", moves).await;
    let still = draw(&place, "width=96&height=96&method=crop").await;
    assert_ne!(still.header("content-type"), "image/gif");
    let moving = draw(&place, "width=96&height=96&method=crop&animated=true").await;
    assert_eq!(moving.header("content-type"), "image/gif");
    let frames = image::AnimationDecoder::into_frames(
        image::codecs::gif::GifDecoder::new(Cursor::new(moving.bytes)).unwrap(),
    );
    let frames = frames.collect_frames().unwrap();
    assert_eq!((frames.len(), frames[0].buffer().dimensions()), (5, (96, 96)));
}

/// A picture in AVIF: 128 by 128, of four colours, the lower half not opaque.
fn avif() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../homeserver/media/fixtures/grid.avif")).unwrap()
}

#[tokio::test]
async fn small_pictures_are_made_of_avif() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let place = upload(&alice, "image/avif", "a.avif", avif()).await;
    let path = format!("{MEDIA}/thumbnail/{place}?width=32&height=32&method=crop");
    let got = get(&alice, &path, &[]).await;
    assert_eq!((got.status, got.header("content-type")), (200, "image/png"), "it is not opaque");
    let drawn = image::load_from_memory(&got.bytes).unwrap().to_rgba8();
    assert_eq!(drawn.dimensions(), (32, 32));
    for (at, expected) in
        [((8, 8), [200, 40, 40, 255]), ((24, 8), [40, 180, 60, 255]), ((8, 24), [40, 60, 200, 128])]
    {
        let found = drawn.get_pixel(at.0, at.1).0;
        let differs = found.iter().zip(expected).map(|(found, expected)| found.abs_diff(expected)).max();
        assert!(differs <= Some(6), "{at:?}: {found:?}, and not {expected:?}");
    }
    // One that is small enough is given as it is.
    let path = format!("{MEDIA}/thumbnail/{place}?width=320&height=240&method=scale");
    assert_eq!(get(&alice, &path, &[]).await.bytes, avif());
}

/// A PNG that says of itself that it has so many pixels.
fn boast(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(&picture(1_000, 900), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let check = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// As PNG has it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let mut check = u32::MAX;
    for byte in bytes {
        check ^= u32::from(*byte);
        for _ in 0..8 {
            let mask = 0_u32.wrapping_sub(check & 1);
            check = (check >> 1) ^ (0xedb8_8320 & mask);
        }
    }
    !check
}

#[tokio::test]
async fn pictures_that_would_burst_the_server_are_refused() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let refused = async |bytes: Vec<u8>, status: u16, errcode: &str| {
        let place = upload(&alice, "image/png", "a.png", bytes).await;
        let path = format!("{MEDIA}/thumbnail/{place}?width=96&height=96&method=crop");
        alice.get(&path).await.refused(status, errcode);
        alice.get(&format!("{path}&animated=true")).await.refused(status, errcode);
    };
    let before = server.peak_memory();
    // 100 megapixels, and far more; the second is a bomb of two hundred kilobytes.
    refused(boast(10_000, 10_000), 413, "M_TOO_LARGE").await;
    refused(boast(60_000, 60_000), 413, "M_TOO_LARGE").await;
    let whole = encoded(&picture(1_000, 900), ImageFormat::Png);
    refused(whole[..whole.len() / 2].to_vec(), 400, "M_UNKNOWN").await;
    refused(b"\x89PNG\r\n\x1a\nand then nothing".to_vec(), 400, "M_UNKNOWN").await;
    refused(b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), 400, "M_UNKNOWN").await;
    refused(Vec::new(), 400, "M_UNKNOWN").await;
    for format in [ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let whole = encoded(&picture(300, 200), format);
        refused(whole[..30].to_vec(), 400, "M_UNKNOWN").await;
        if format != ImageFormat::Jpeg {
            refused(whole[..whole.len() / 2].to_vec(), 400, "M_UNKNOWN").await;
        }
    }
    let whole = avif();
    refused(whole[..200].to_vec(), 400, "M_UNKNOWN").await;
    refused(whole[..whole.len() - 10].to_vec(), 400, "M_UNKNOWN").await;
    for side in [10_000_u32, u32::MAX] {
        let mut boast = whole.clone();
        for at in 0..boast.len() - 16 {
            if &boast[at..at + 4] == b"ispe" {
                boast[at + 8..at + 16].copy_from_slice(&[side.to_be_bytes(), side.to_be_bytes()].concat());
            }
        }
        refused(boast, 413, "M_TOO_LARGE").await;
    }
    // A colour profile of a gibibyte, in seven megabytes. The picture itself is fine.
    let place = upload(&alice, "image/png", "a.png", with_profile(1024 * 1024 * 1024)).await;
    for animated in ["false", "true"] {
        let path = format!("{MEDIA}/thumbnail/{place}?width=96&height=96&method=crop&animated={animated}");
        let status = get(&alice, &path, &[]).await.status;
        assert!(matches!(status, 200 | 413), "{animated} {status}");
    }
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < 300 * 1024 * 1024, "{grown}");
}

/// A PNG with a colour profile of so many zeros (PNG, "iCCP").
fn with_profile(size: usize) -> Vec<u8> {
    let png = encoded(&picture(200, 200), ImageFormat::Png);
    let named = [b"iCCPzeros\0\0".to_vec(), deflated_zeros(size)].concat();
    let length = u32::try_from(named.len() - 4).unwrap().to_be_bytes();
    let chunk = [length.to_vec(), named.clone(), crc32(&named).to_be_bytes().to_vec()].concat();
    // Behind the header.
    [&png[..33], chunk.as_slice(), &png[33..]].concat()
}

/// Zeros as zlib has them (RFC 1950, RFC 1951): one, and then that it is repeated 258 times, again and again.
fn deflated_zeros(size: usize) -> Vec<u8> {
    const REPEATED: usize = 258;
    // From the least significant bit on: the last block, fixed codes, and the code of zero.
    let mut bits = vec![1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0];
    for _ in 0..size / REPEATED {
        bits.extend([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
    }
    bits.extend([0; 7]);
    let zeros = size / REPEATED * REPEATED + 1;
    let check = (u32::try_from(zeros % 65_521).unwrap() << 16) | 1;
    let bytes = bits.chunks(8).map(|bits| bits.iter().rev().fold(0_u8, |byte, bit| (byte << 1) | bit));
    [vec![0x78, 0x9c], bytes.collect(), check.to_be_bytes().to_vec()].concat()
}

#[tokio::test]
async fn what_was_uploaded_survives_a_crash_and_what_broke_off_leaves_nothing() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let file = text(2_000_000);
    let (first, second) = (
        upload(&alice, "text/plain", "a", file.clone()).await,
        upload(&alice, "text/plain", "b", file.clone()).await,
    );
    // The same content is kept once.
    let kept = |server: &Server, part: &str| {
        let mut found = Vec::new();
        let mut places = vec![server.directory().join("data/media").join(part)];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(place).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    places.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found
    };
    assert_eq!(kept(&server, "content").len(), 1);
    // Whoever goes away in the middle leaves nothing.
    let chunks = futures_util::stream::unfold(0, |number| async move {
        if number == 5 {
            return Some((Err(std::io::Error::other("gone")), 6));
        }
        Some((Ok::<_, std::io::Error>(text(100_000)), number + 1))
    });
    let broken = alice.request(Method::POST, UPLOAD).body(reqwest::Body::wrap_stream(chunks)).send().await;
    broken.unwrap_err();
    let cleaned = tokio::time::timeout(entente_tests::SOON, async {
        while !kept(&server, "uploads").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    cleaned.await.expect("the broken upload is still there");
    assert_eq!(kept(&server, "content").len(), 1);

    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    for place in [first, second] {
        assert_eq!(get(&alice, &format!("{MEDIA}/download/{place}"), &[]).await.bytes, file);
    }
}

#[tokio::test]
async fn an_operator_takes_media_away() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let same = text(1_000);
    let (first, second) = (
        upload(&alice, "text/plain", "a", same.clone()).await,
        upload(&alice, "text/plain", "b", same.clone()).await,
    );
    let run = |arguments: &[&str]| {
        let arguments = [&["admin"], arguments].concat();
        entente_tests::run(&mut server.command(&arguments), "").status.success()
    };
    let status = async |place: &str| get(&alice, &format!("{MEDIA}/download/{place}"), &[]).await.status;
    let uri = |place: &str| format!("mxc://{place}");
    assert!(run(&["quarantine-media", &uri(&first)]));
    assert_eq!((status(&first).await, status(&second).await), (404, 200));
    assert!(run(&["quarantine-media", "--release", &uri(&first)]));
    assert_eq!(status(&first).await, 200);
    // The other media of the same content stays.
    assert!(run(&["delete-media", &uri(&first)]));
    assert!(!run(&["delete-media", &uri(&first)]), "it is gone already");
    assert_eq!((status(&first).await, status(&second).await), (404, 200));
    assert!(!run(&["delete-media-of", "@alice:elsewhere.example"]), "not a user of this server");
    assert_eq!(status(&second).await, 200);
    assert!(run(&["delete-media-of", "alice"]));
    assert_eq!(status(&second).await, 404);
    let contents = server.directory().join("data/media/content");
    let files = std::fs::read_dir(contents)
        .unwrap()
        .flat_map(|part| std::fs::read_dir(part.unwrap().path()).unwrap());
    assert_eq!(files.count(), 0, "what nobody names is gone");
    assert!(!run(&["delete-media", "no uri"]));

    // What was quarantined before it came is still, when it comes.
    let promised = alice.post("/_matrix/media/v1/create", &json!({})).await.ok();
    let place = address(&promised["content_uri"]);
    assert!(run(&["quarantine-media", &uri(&place)]));
    Answer::to(alice.request(Method::PUT, &format!("{UPLOAD}/{place}")).body("here")).await.ok();
    assert_eq!(status(&place).await, 404);
}

#[tokio::test]
async fn files_belong_to_one_database() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let place = upload(&alice, "text/plain", "a", text(10)).await;
    let media = server.directory().join("data/media");
    let start = |directory: &std::path::Path| {
        let mut other = entente_tests::entente(directory);
        other.env("ENTENTE_LISTENERS", "[{address=\"127.0.0.1:0\"}]");
        other.env("ENTENTE_MEDIA__FILES__PATH", &media);
        let output = entente_tests::run(&mut other, "");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let other = tempfile::TempDir::new().unwrap();
    let said = start(other.path());
    assert!(said.contains("it belongs to another database"), "{said}");
    // A database whose media are elsewhere does not take an empty directory for them.
    let directory = server.kill();
    std::fs::rename(&media, other.path().join("moved")).unwrap();
    let said = start(directory.path());
    assert!(said.contains("the media of this database are elsewhere"), "{said}");
    std::fs::remove_dir_all(&media).unwrap();
    std::fs::rename(other.path().join("moved"), &media).unwrap();
    let server = Server::start(directory, &[("ENTENTE_RATE_LIMITS__ENABLED", "false")]);
    let alice = alice.at(&server);
    assert_eq!(get(&alice, &format!("{MEDIA}/download/{place}"), &[]).await.status, 200);
}

#[tokio::test]
async fn downloads_have_a_limit_of_their_own() {
    let server = Server::with_only(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_USER", "{ per_second = 0.001, burst = 2 }"),
        ("ENTENTE_RATE_LIMITS__MEDIA_BY_USER", "{ per_second = 0.001, burst = 5 }"),
    ]);
    let alice = User::register(&server, "alice").await;
    let place = upload(&alice, "text/plain", "a", text(10)).await;
    for _ in 0..5 {
        assert_eq!(get(&alice, &format!("{MEDIA}/download/{place}"), &[]).await.status, 200);
        assert_eq!(get(&alice, &format!("{MEDIA}/config"), &[]).await.status, 200);
    }
    alice.get(&format!("{MEDIA}/download/{place}")).await.refused(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn old_media_are_given_without_a_token_where_the_operator_wants_it() {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_MEDIA__UNAUTHENTICATED_BEFORE", "2999-01-01"),
    ]);
    let alice = User::register(&server, "alice").await;
    let place = upload(&alice, "image/png", "a.png", encoded(&picture(200, 100), ImageFormat::Png)).await;
    let anybody = Caller::new(&server.base_url, None);
    for version in ["v3", "r0", "v1"] {
        let got = get(&anybody, &format!("/_matrix/media/{version}/download/{place}"), &[]).await;
        assert_eq!((got.status, got.header("cache-control")), (200, "public, max-age=31536000, immutable"));
        let path = format!("/_matrix/media/{version}/thumbnail/{place}?width=32&height=32&method=crop");
        assert_eq!(get(&anybody, &path, &[]).await.status, 200);
    }
}

#[tokio::test]
async fn files_cross_between_servers() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let file = text(3_000_000);
    let place = upload(&alice, "text/plain", "compte é.txt", file.clone()).await;
    let path = format!("{MEDIA}/download/{place}");
    bob.get(&format!("{path}?allow_remote=false")).await.refused(404, "M_NOT_FOUND");
    let got = get(&bob, &path, &[]).await;
    assert_eq!((got.status, got.bytes == file), (200, true), "{:?}", got.headers);
    assert_eq!(got.header("content-type"), "text/plain");
    assert!(got.header("content-disposition").ends_with("filename*=utf-8''compte%20%C3%A9.txt"));
    let image = upload(&alice, "image/png", "a.png", encoded(&picture(900, 900), ImageFormat::Png)).await;
    let small = get(&bob, &format!("{MEDIA}/thumbnail/{image}?width=96&height=96&method=crop"), &[]).await;
    assert_eq!(image::load_from_memory(&small.bytes).unwrap().width(), 96);
    let name = place.split_once('/').unwrap().0;
    bob.get(&format!("{MEDIA}/download/{name}/nothing")).await.refused(404, "M_NOT_FOUND");
    // It is here now, also when the other is gone.
    drop(one);
    assert_eq!(get(&bob, &format!("{path}?allow_remote=false"), &[]).await.bytes, file);
    bob.get(&format!("{MEDIA}/download/{name}/other")).await.refused(502, "M_UNKNOWN");
}

#[tokio::test]
async fn a_closed_server_fetches_nothing() {
    let authority = Authority::new();
    let one = authority.server(&[]);
    let other = authority.server(&[("ENTENTE_FEDERATION__POLICY", "closed")]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let place = upload(&alice, "text/plain", "a", text(10)).await;
    bob.get(&format!("{MEDIA}/download/{place}")).await.refused(403, "M_FORBIDDEN");
    let back = upload(&bob, "text/plain", "a", text(10)).await;
    alice.get(&format!("{MEDIA}/download/{back}")).await.refused(502, "M_UNKNOWN");
}
