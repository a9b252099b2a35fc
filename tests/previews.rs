//! Previews of links: what pages say about themselves, and which are never asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use entente_tests::{Server, User, segment};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const PAGE: &str = "<html><head><meta property='og:title' content='Le &amp; titre'><meta name='description' content='Some words'>\
                    <meta property='og:image' content='/picture.png'><meta property='og:image:secure_url' content='/picture.png'>\
                    <meta property='og:image:alt' content='x'></head></html>";

fn picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(40, 30).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A web server on a loopback address. Answers its port, and counts what it is asked.
async fn web() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                counted.fetch_add(1, Ordering::Relaxed);
                let html = |body: &str| ("200 OK", "text/html", body.as_bytes().to_vec(), String::new());
                let to =
                    |place: &str| ("302 Found", "text/plain", Vec::new(), format!("Location: {place}\r\n"));
                let (status, content_type, body, more) = match path.as_str() {
                    "/page" => html(PAGE),
                    "/picture.png" => ("200 OK", "image/png", picture(), String::new()),
                    "/long" => html(&format!("<title>long</title>{}", "x".repeat(3_000_000))),
                    "/file" => ("200 OK", "application/zip", b"PK".to_vec(), String::new()),
                    "/moved" => to("/page"),
                    "/inside" => to(&format!("http://127.0.0.2:{port}/page")),
                    "/inside6" => to(&format!("http://[::1]:{port}/page")),
                    "/cloud" => to("http://169.254.169.254/latest/meta-data"),
                    "/loop" => to("/loop"),
                    _ => ("404 Not Found", "text/plain", Vec::new(), String::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // A reader may have enough before the end.
                let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
            });
        }
    });
    (port, asked)
}

fn preview(url: &str) -> String {
    format!("/_matrix/client/v1/media/preview_url?url={}", segment(url))
}

#[tokio::test]
async fn pages_are_asked_once_and_never_inside() {
    let (port, asked) = web().await;
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_MEDIA__PREVIEWS__ENABLED", "true"),
        ("ENTENTE_MEDIA__PREVIEWS__FURTHER_PORTS", &format!("[{port}]")),
        ("ENTENTE_MEDIA__PREVIEWS__ALLOWED_ADDRESS_RANGES", "[\"127.0.0.1/32\"]"),
    ]);
    let alice = User::register(&server, "alice").await;
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let first = alice.get(&preview(&at("/page"))).await.ok();
    assert_eq!((&first["og:title"], &first["og:description"]), (&json!("Le & titre"), &json!("Some words")));
    assert_eq!((&first["og:image:width"], &first["og:image:height"]), (&json!(40), &json!(30)));
    assert_eq!(first["matrix:image:size"], picture().len());
    let mut told: Vec<&String> =
        first.as_object().unwrap().keys().filter(|key| key.contains(":image")).collect();
    told.sort();
    let of_the_copy = ["matrix:image:size", "og:image", "og:image:height", "og:image:type", "og:image:width"];
    assert_eq!(told, of_the_copy, "clients are not sent elsewhere");
    let place = first["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let got = alice.get(&format!("/_matrix/client/v1/media/download/{place}")).await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, "image/png"));
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(alice.get(&preview(&at("/page#part"))).await.ok(), first);
    assert_eq!(asked.load(Ordering::Relaxed), before, "it is remembered");

    assert_eq!(alice.get(&preview(&at("/moved"))).await.ok()["og:title"], "Le & titre");
    assert_eq!(alice.get(&preview(&at("/long"))).await.ok()["og:title"], "long");
    assert!(alice.get(&preview(&at("/picture.png"))).await.ok()["og:image"].is_string());
    for path in ["/file", "/nothing", "/loop"] {
        alice.get(&preview(&at(path))).await.refused(502, "M_UNKNOWN");
    }
    let inside = [at("/inside"), at("/inside6"), at("/cloud")];
    let direct = [
        "127.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "[fe80::1]",
        "2130706434",
    ];
    let direct = direct.map(|host| format!("http://{host}:{port}/page"));
    let other_port = [String::from("http://127.0.0.1:1/page")];
    for url in inside.iter().chain(&direct).chain(&other_port) {
        alice.get(&preview(url)).await.refused(403, "M_FORBIDDEN");
    }
    for url in ["ftp://example.org/", "file:///etc/passwd", "http://user:password@example.org/", "no url"] {
        alice.get(&preview(url)).await.refused(403, "M_FORBIDDEN");
    }
    alice.get("/_matrix/client/v1/media/preview_url").await.refused(400, "M_MISSING_PARAM");
    server.anonymous().get(&preview(&at("/page"))).await.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn pages_are_asked_now_and_then_and_not_for_guests() {
    let (port, asked) = web().await;
    let server = Server::with_only(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_REGISTRATION__GUESTS", "true"),
        ("ENTENTE_MEDIA__PREVIEWS__ENABLED", "true"),
        ("ENTENTE_MEDIA__PREVIEWS__MAX_STORAGE", "1 B"),
        ("ENTENTE_MEDIA__PREVIEWS__FURTHER_PORTS", &format!("[{port}]")),
        ("ENTENTE_MEDIA__PREVIEWS__ALLOWED_ADDRESS_RANGES", "[\"127.0.0.1/32\"]"),
        ("ENTENTE_RATE_LIMITS__PREVIEWS_BY_USER", "{ per_second = 0.001, burst = 1 }"),
    ]);
    let page = preview(&format!("http://127.0.0.1:{port}/page"));
    let guest = server.anonymous().post("/_matrix/client/v3/register?kind=guest", &json!({})).await.ok();
    let guest = server.caller(guest["access_token"].as_str().unwrap());
    guest.get(&page).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let alice = User::register(&server, "alice").await;
    let told = alice.get(&page).await.ok();
    assert_eq!((&told["og:title"], &told["og:image"]), (&json!("Le & titre"), &json!(null)));
    alice.get(&page).await.refused(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn nobody_is_asked_unless_the_operator_wants_it() {
    let (port, asked) = web().await;
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    alice.get(&preview(&format!("http://127.0.0.1:{port}/page"))).await.refused(404, "M_UNRECOGNIZED");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
