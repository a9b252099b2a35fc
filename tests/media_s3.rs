//! Media in a bucket, of an S3 server that checks signatures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Cursor, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use entente_tests::{Answer, SOON, Server, User};
use image::{DynamicImage, ImageFormat};
use reqwest::{Method, header};
use serde_json::Value;

const UPLOAD: &str = "/_matrix/media/v3/upload";
const MEDIA: &str = "/_matrix/client/v1/media";
const BUCKET: &str = "media";

/// The server, which ends with its standard input.
struct S3 {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: String,
    key_id: String,
    key: String,
}

impl S3 {
    fn start() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("s3");
        let mut child = Command::new(directory.join(".venv/bin/python"))
            .arg(directory.join("server.py"))
            .arg(BUCKET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs it");
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, key_id, key] = words[..] else { panic!("it does not start: {line}") };
        let (address, key_id, key) = (address.to_owned(), key_id.to_owned(), key.to_owned());
        Self { _child: child, input, output, address, key_id, key }
    }

    /// The names of what is in the bucket: `objects`, and `uploads` that have not ended.
    fn names(&mut self, what: &str) -> Vec<String> {
        writeln!(self.input).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let found: Value = serde_json::from_str(&line).unwrap();
        found[what].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn settings(&self) -> [(&str, &str); 9] {
        [
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
            ("ENTENTE_MEDIA__STORE", "s3"),
            ("ENTENTE_MEDIA__S3__ENDPOINT", &self.address),
            ("ENTENTE_MEDIA__S3__PATH_STYLE", "true"),
            ("ENTENTE_MEDIA__S3__BUCKET", BUCKET),
            ("ENTENTE_MEDIA__S3__PREFIX", "ministry/chat"),
            ("ENTENTE_MEDIA__S3__ACCESS_KEY_ID", &self.key_id),
            ("ENTENTE_MEDIA__S3__SECRET_ACCESS_KEY", &self.key),
        ]
    }
}

/// Bytes that repeat nowhere near.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(size).collect()
}

async fn upload(user: &User, bytes: Vec<u8>) -> String {
    let request = user.request(Method::POST, UPLOAD).header(header::CONTENT_TYPE, "image/png").body(bytes);
    let uri = Answer::to(request).await.ok()["content_uri"].as_str().unwrap().to_owned();
    uri.strip_prefix("mxc://").unwrap().to_owned()
}

async fn download(user: &User, path: &str, range: Option<&str>) -> (u16, Vec<u8>) {
    let mut request = user.request(Method::GET, &format!("{MEDIA}/{path}"));
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn media_are_kept_in_a_bucket() {
    let mut s3 = S3::start();
    let server = Server::with(&s3.settings());
    let alice = User::register(&server, "alice").await;
    // Less than a part, several of them, and nothing at all.
    let (small, large) = (noise(100_000), noise(20_000_000));
    let places = [
        upload(&alice, small.clone()).await,
        upload(&alice, large.clone()).await,
        upload(&alice, Vec::new()).await,
    ];
    let again = upload(&alice, large.clone()).await;
    let of_content = |s3: &mut S3| {
        let names = s3.names("objects");
        assert!(names.iter().all(|name| name.starts_with("ministry/chat/")), "{names:?}");
        names.into_iter().filter(|name| name.starts_with("ministry/chat/content/")).count()
    };
    assert_eq!(of_content(&mut s3), 3, "the same content is kept once");
    assert!(s3.names("objects").iter().all(|name| !name.contains("/uploads/")));
    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    for (place, expected) in places.iter().zip([&small, &large, &Vec::new()]) {
        assert_eq!(download(&alice, &format!("download/{place}"), None).await, (200, expected.clone()));
    }
    let path = format!("download/{again}");
    let part = download(&alice, &path, Some("bytes=9000000-9999999")).await;
    assert_eq!(part, (206, large[9_000_000..10_000_000].to_vec()));

    let mut picture = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(300, 200).write_to(&mut picture, ImageFormat::Png).unwrap();
    let picture = upload(&alice, picture.into_inner()).await;
    let path = format!("thumbnail/{picture}?width=32&height=32&method=crop");
    let first = download(&alice, &path, None).await;
    assert_eq!(image::load_from_memory(&first.1).unwrap().width(), 32);
    assert_eq!(download(&alice, &path, None).await, first);

    // Whoever goes away in the middle leaves nothing.
    let chunks = futures_util::stream::unfold(0_usize, |number| async move {
        if number == 10 {
            return Some((Err(std::io::Error::other("gone")), number));
        }
        Some((Ok(noise(1_000_000)), number + 1))
    });
    let broken = alice.request(Method::POST, UPLOAD).body(reqwest::Body::wrap_stream(chunks)).send().await;
    broken.unwrap_err();
    let cleaned = tokio::time::timeout(SOON, async {
        while !s3.names("uploads").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    cleaned.await.expect("the broken upload is still there");

    let deleted = entente_tests::run(&mut server.command(&["admin", "delete-media-of", "alice"]), "");
    assert!(deleted.status.success());
    assert_eq!(s3.names("objects"), ["ministry/chat/owner"]);
}

#[tokio::test]
async fn a_bucket_belongs_to_one_database() {
    let s3 = S3::start();
    let server = Server::with(&s3.settings());
    let alice = User::register(&server, "alice").await;
    let place = upload(&alice, noise(1_000)).await;
    let refused = |settings: &[(&str, &str)]| {
        let directory = tempfile::TempDir::new().unwrap();
        let mut other = entente_tests::entente(directory.path());
        other.envs(settings.iter().copied()).env("ENTENTE_LISTENERS", "[{address=\"127.0.0.1:0\"}]");
        let output = entente_tests::run(&mut other, "");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&s3.settings());
    assert!(said.contains("it belongs to another database"), "{said}");
    let mut settings = s3.settings();
    settings[8].1 = "another key";
    let said = refused(&settings);
    assert!(said.contains("SignatureDoesNotMatch") || said.contains("403"), "{said}");
    assert_eq!(download(&alice, &format!("download/{place}"), None).await.0, 200);
}
