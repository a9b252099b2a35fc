//! Federation through a proxy (`[outbound]`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use entente_tests::{Authority, User, free_port, segment};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A proxy that leads where it is asked to lead, and notes it.
#[derive(Clone, Default)]
struct Proxy {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(port: u16) -> Self {
        let proxy = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        proxy
    }

    async fn serve(self, mut near: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = near.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let knows_password = head.lines().any(|line| line == "Proxy-Authorization: Basic Ym9iOnNlY3JldA==");
        if !head.starts_with("CONNECT ") || !knows_password {
            let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
            return;
        }
        let target = head.split(' ').nth(1).unwrap().to_owned();
        self.asked.lock().unwrap().push(target.clone());
        let Ok(mut far) = TcpStream::connect(&target).await else {
            let _ = near.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
            return;
        };
        near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn other_servers_are_reached_through_it() {
    let (authority, port) = (Authority::new(), free_port());
    let proxy = Proxy::start(port).await;
    let url = format!("http://127.0.0.1:{port}");
    let password = authority.ca_file().with_file_name("password");
    std::fs::write(&password, "secret\n").unwrap();
    let through = |more: &'static str| {
        authority.server(&[
            ("ENTENTE_OUTBOUND__PROXY", url.as_str()),
            ("ENTENTE_OUTBOUND__PROXY_USERNAME", "bob"),
            ("ENTENTE_OUTBOUND__PROXY_PASSWORD__FILE", password.to_str().unwrap()),
            ("ENTENTE_OUTBOUND__DIRECT_ADDRESS_RANGES", more),
        ])
    };
    let (one, shut_in, beside) =
        (authority.server(&[]), through("[]"), through("[\"127.0.0.0/8\", \"::1/128\"]"));
    let alice = User::register(&one, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(&room), segment(&one.name()));

    let bob = User::register(&shut_in, "bob").await;
    bob.post(&path, &json!({})).await.ok();
    // It is told addresses, which the server has held against its own rules.
    let target = one.name().replace("localhost", "127.0.0.1");
    assert!(proxy.asked().contains(&target), "{:?}", proxy.asked());
    assert!(proxy.asked().iter().all(|asked| !asked.contains("localhost")), "{:?}", proxy.asked());

    // What is near is reached without it.
    let before = proxy.asked().len();
    let carol = User::register(&beside, "carol").await;
    carol.post(&path, &json!({})).await.ok();
    assert!(proxy.asked()[before..].iter().all(|asked| *asked != target), "{:?}", proxy.asked());
}

#[tokio::test]
async fn what_may_not_be_reached_is_not_asked_of_it() {
    let (authority, port) = (Authority::new(), free_port());
    let proxy = Proxy::start(port).await;
    let url = format!("http://127.0.0.1:{port}");
    let one = authority.server(&[]);
    let careful = authority.server(&[
        ("ENTENTE_OUTBOUND__PROXY", url.as_str()),
        ("ENTENTE_FEDERATION__ALLOW_PRIVATE_ADDRESSES", "false"),
    ]);
    let closed = authority
        .server(&[("ENTENTE_OUTBOUND__PROXY", url.as_str()), ("ENTENTE_FEDERATION__POLICY", "closed")]);
    for (server, status) in [(&careful, 502), (&closed, 403)] {
        let bob = User::register(server, "bob").await;
        let alias = format!("#room:{}", one.name());
        let found = bob.get(&format!("/_matrix/client/v3/directory/room/{}", segment(&alias))).await;
        assert_eq!(found.status.as_u16(), status, "{}", found.body);
    }
    assert_eq!(proxy.asked(), Vec::<String>::new());
}
