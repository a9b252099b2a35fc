//! Requests through proxies: what those are told, and what they are not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use entente_outbound::{
    AddressPolicy, Client, ClientSettings, GuardedResolver, Lookup, ProxyProtocol, ProxySettings, Request,
    RequestError, Resolution, Route, public_tls,
};
use http::Method;
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
                "outside.example" => vec!["10.0.0.1".parse().unwrap()],
                _ => Vec::new(),
            })
        })
    }
}

/// What a proxy heard: where to, and by which credentials.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A server that says `hello`.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                }
            });
        }
    });
    port
}

/// A proxy that leads to 127.0.0.2, wherever it is asked to lead.
async fn http_proxy(port: u16) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (bound, heard) = (listener.local_addr().unwrap(), Heard::default());
    let noted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            assert!(head.starts_with("CONNECT "), "{head}");
            let credentials = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
            noted.lock().unwrap().push((target, credentials.unwrap_or_default().to_owned()));
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            pipe(stream, port);
        }
    });
    (bound, heard)
}

/// The same in SOCKS5 (RFC 1928), for a user and a password (RFC 1929).
async fn socks_proxy(port: u16) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (bound, heard) = (listener.local_addr().unwrap(), Heard::default());
    let noted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert_eq!(stream.read_u8().await.unwrap(), 5);
            bytes(&mut stream).await;
            stream.write_all(&[5, 2]).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 1);
            let (user, password) = (bytes(&mut stream).await, bytes(&mut stream).await);
            stream.write_all(&[1, 0]).await.unwrap();
            let mut head = [0; 4];
            stream.read_exact(&mut head).await.unwrap();
            let host = match head {
                [5, 1, 0, 1] => {
                    let mut address = [0; 4];
                    stream.read_exact(&mut address).await.unwrap();
                    std::net::Ipv4Addr::from(address).to_string()
                }
                [5, 1, 0, 3] => bytes(&mut stream).await,
                other => panic!("{other:?}"),
            };
            let target = format!("{host}:{}", stream.read_u16().await.unwrap());
            noted.lock().unwrap().push((target, format!("{user}:{password}")));
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            pipe(stream, port);
        }
    });
    (bound, heard)
}

/// A text behind its length.
async fn bytes(stream: &mut TcpStream) -> String {
    let length = stream.read_u8().await.unwrap();
    let mut text = vec![0; usize::from(length)];
    stream.read_exact(&mut text).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

fn pipe(mut near: TcpStream, port: u16) {
    tokio::spawn(async move {
        let mut far = TcpStream::connect(("127.0.0.2", port)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
}

fn proxy(protocol: ProxyProtocol, at: SocketAddr) -> ProxySettings {
    ProxySettings {
        protocol,
        authority: at.to_string(),
        credentials: Some((String::from("entente"), String::from("a:password"))),
        direct: Vec::new(),
        resolves_names: false,
    }
}

async fn ask(proxy: ProxySettings, url: &str) -> Result<String, RequestError> {
    let settings = ClientSettings {
        user_agent: String::from("test"),
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(20),
        idle_connections: 1,
        route: Route::through(proxy),
    };
    let addresses = AddressPolicy::public_internet().allowing(["127.0.0.2/32".parse().unwrap()]);
    let resolver = GuardedResolver::new(Arc::new(addresses), Arc::new(TwoNames));
    let client = Client::new(&settings, resolver, public_tls(&[]).unwrap()).unwrap();
    let answer = client.ask(Request::new(Method::GET, Url::parse(url).unwrap(), 100)).await?;
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_proxy_is_told_addresses_that_are_allowed_and_no_others() {
    let port = server().await;
    let (http, heard_http) = http_proxy(port).await;
    let (socks, heard_socks) = socks_proxy(port).await;
    for (protocol, at, heard, credentials) in [
        (ProxyProtocol::Http, http, heard_http, "Basic ZW50ZW50ZTphOnBhc3N3b3Jk"),
        (ProxyProtocol::Socks5, socks, heard_socks, "entente:a:password"),
    ] {
        let url = format!("http://inside.example:{port}/");
        assert_eq!(ask(proxy(protocol, at), &url).await.unwrap(), "hello", "{protocol:?}");
        let told = (format!("127.0.0.2:{port}"), credentials.to_owned());
        assert_eq!(*heard.lock().unwrap(), [told], "{protocol:?}");
        for url in [format!("http://outside.example:{port}/"), format!("http://10.0.0.1:{port}/")] {
            let refused = ask(proxy(protocol, at), &url).await;
            assert!(matches!(refused, Err(RequestError::Refused(_))), "{url}: {refused:?}");
        }
        assert_eq!(heard.lock().unwrap().len(), 1, "{protocol:?}: it hears nothing of what is refused");
    }
}

#[tokio::test]
async fn a_proxy_that_looks_names_up_is_told_names_but_no_addresses_that_are_denied() {
    let port = server().await;
    let (at, heard) = http_proxy(port).await;
    let proxy = ProxySettings { resolves_names: true, ..proxy(ProxyProtocol::Http, at) };
    // A name that is unknown here.
    let url = format!("http://elsewhere.example:{port}/");
    assert_eq!(ask(proxy.clone(), &url).await.unwrap(), "hello");
    assert_eq!(heard.lock().unwrap()[0].0, format!("elsewhere.example:{port}"));
    let refused = ask(proxy, &format!("http://10.0.0.1:{port}/")).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "{refused:?}");
    assert_eq!(heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_near_is_reached_without_the_proxy() {
    let port = server().await;
    let (at, heard) = http_proxy(port).await;
    let direct = vec!["127.0.0.0/8".parse().unwrap()];
    let proxy = ProxySettings { direct, ..proxy(ProxyProtocol::Http, at) };
    let url = format!("http://inside.example:{port}/");
    assert_eq!(ask(proxy, &url).await.unwrap(), "hello");
    assert!(heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let refused = ask(proxy(ProxyProtocol::Http, at), "http://inside.example/").await;
    assert!(matches!(&refused, Err(RequestError::Failed(why)) if why.contains("proxy")), "{refused:?}");
}
