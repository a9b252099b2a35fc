//! Fetching from servers that redirect, answer too much, or never.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use entente_outbound::{
    AddressPolicy, ClientSettings, FetchError, FetchLimits, Fetched, Fetcher, Lookup, Resolution, Route,
    UrlPolicy, UrlRefused,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use url::Url;

/// `inside.example` is at an address that the tests allow, `outside.example` at one that they do not.
#[derive(Debug)]
struct TwoNames;

impl Lookup for TwoNames {
    fn lookup<'a>(&'a self, host: &'a str) -> Resolution<'a> {
        Box::pin(async move {
            Ok(match host {
                "inside.example" => vec!["127.0.0.2".parse().unwrap()],
                "outside.example" => vec!["127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
                _ => Vec::new(),
            })
        })
    }
}

/// Serves one answer to whoever asks. `answer` is called for each connection, before anything is read from it.
async fn serve(address: &str, answer: impl Fn(SocketAddr) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let bound = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let text = answer(bound);
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    bound
}

fn page(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

async fn fetch(ports: &[u16], url: &str) -> Result<Fetched, FetchError> {
    let addresses = AddressPolicy::public_internet().allowing(["127.0.0.2/32".parse().unwrap()]);
    let policy = UrlPolicy::new(Arc::new(addresses), ports);
    let settings = ClientSettings {
        user_agent: String::from("test"),
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        idle_connections: 0,
        route: Route::direct(),
    };
    let limits = FetchLimits { redirects: 5, timeout: Duration::from_secs(5) };
    let fetcher = Fetcher::new(&settings, policy, Arc::new(TwoNames), limits).unwrap();
    fetcher.get(&Url::parse(url).unwrap(), "*/*", 10).await
}

#[tokio::test]
async fn an_allowed_server_is_asked_by_name_and_by_address() {
    let server = serve("127.0.0.2:0", |_| page("0123456789")).await;
    for host in ["inside.example", "127.0.0.2"] {
        let url = format!("http://{host}:{}/", server.port());
        let fetched = fetch(&[server.port()], &url).await.unwrap();
        assert_eq!((&fetched.body[..], fetched.is_cut_short), (&b"0123456789"[..], false));
        assert_eq!(fetched.content_type.as_deref(), Some("text/plain"));
    }
}

#[tokio::test]
async fn too_long_a_body_is_cut() {
    let server = serve("127.0.0.2:0", |_| page("0123456789A")).await;
    let fetched = fetch(&[server.port()], &format!("http://{server}/")).await.unwrap();
    assert_eq!((&fetched.body[..], fetched.is_cut_short), (&b"0123456789"[..], true));
}

#[tokio::test]
async fn denied_places_are_refused_before_anything_is_sent_to_them() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let secret = serve("127.0.0.1:0", move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        page("secret")
    });
    let secret = secret.await;
    for url in [format!("http://{secret}/"), format!("http://outside.example:{}/", secret.port())] {
        let outcome = fetch(&[secret.port()], &url).await;
        assert!(matches!(outcome, Err(FetchError::Refused(UrlRefused::Address))), "{url}: {outcome:?}");
        let target = url.clone();
        let server = serve("127.0.0.2:0", move |_| redirect(&target)).await;
        let outcome = fetch(&[secret.port(), server.port()], &format!("http://{server}/")).await;
        assert!(matches!(outcome, Err(FetchError::Refused(UrlRefused::Address))), "{url}: {outcome:?}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    // What the count above would have seen.
    let mut direct = TcpStream::connect(secret).await.unwrap();
    direct.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_ne!(direct.read(&mut [0; 64]).await.unwrap(), 0);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let server = serve("127.0.0.2:0", |own| redirect(&format!("http://{own}/again"))).await;
    let outcome = fetch(&[server.port()], &format!("http://{server}/")).await;
    assert!(matches!(outcome, Err(FetchError::TooManyRedirects)), "{outcome:?}");
    let other_port = serve("127.0.0.2:0", |_| redirect("http://127.0.0.2:22/")).await;
    let outcome = fetch(&[other_port.port()], &format!("http://{other_port}/")).await;
    assert!(matches!(outcome, Err(FetchError::Refused(UrlRefused::Port(22)))), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_does_not_end_is_given_up() {
    let server = serve("127.0.0.2:0", |_| String::from("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"));
    let server = server.await;
    let outcome = fetch(&[server.port()], &format!("http://{server}/")).await;
    assert!(matches!(outcome, Err(FetchError::TimedOut | FetchError::Failed(_))), "{outcome:?}");
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let outcome = fetch(&[silent.port()], &format!("http://{silent}/")).await;
    assert!(matches!(outcome, Err(FetchError::TimedOut)), "{outcome:?}");
}
