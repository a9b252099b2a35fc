//! Three servers in one room, on a network that fails, while one of them is killed: everything ends up everywhere, once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use entente_tests::{Authority, SOON, User, bodies, free_port, segment};
use serde_json::json;

/// One of so many pieces that go through is lost with its connection: a request that arrived and is not answered, or one that did not
/// arrive. A request on a new connection is about ten pieces, one on a known connection two to four: about one of ten fails.
const ONE_OF: usize = 40;
/// Whether anything is lost yet: whoever joins a room asks once and is told that it failed.
static IS_BAD: AtomicBool = AtomicBool::new(false);

/// Lets connections through to a port of this machine, and cuts them. Answers its own port.
fn bad_wire(to: u16) -> u16 {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || carry(from, to));
            }
        }
    });
    port
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    static PIECES: AtomicUsize = AtomicUsize::new(0);
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let is_lost =
            IS_BAD.load(Ordering::Relaxed) && PIECES.fetch_add(1, Ordering::Relaxed) % ONE_OF == ONE_OF - 1;
        if is_lost || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Everything that is written in a room, in the order of the alphabet.
async fn written(user: &User, room: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut from = String::new();
    loop {
        let path = User::in_room(room, &format!("messages?dir=b&limit=100{from}"));
        let page = user.get(&path).await.ok();
        all.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
        let Some(end) = page["end"].as_str() else { break };
        from = format!("&from={}", segment(end));
    }
    all.sort();
    all
}

async fn joins(user: &User, room: &str, through: &User) {
    let via = through.id.split_once(':').unwrap().1;
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(room), segment(via));
    let joined = tokio::time::timeout(SOON, async {
        while !user.post(&path, &json!({})).await.status.is_success() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    joined.await.unwrap_or_else(|_| panic!("{} cannot join", user.id));
}

#[tokio::test]
async fn everything_ends_up_everywhere_once() {
    let authority = Authority::new();
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let peers: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(r#"{{ server = "localhost:{port}", address = "localhost:{}" }}"#, bad_wire(*port))
        })
        .collect();
    let peers = format!("[{}]", peers.join(", "));
    let settings = [("ENTENTE_FEDERATION__PEERS", peers.as_str())];
    let mut servers = Vec::new();
    for port in &ports {
        servers.push(authority.server_at(*port, &settings));
    }
    let mut users = Vec::new();
    for (server, name) in servers.iter().zip(["alice", "bob", "carol"]) {
        users.push(User::register(server, name).await);
    }
    let room = users[0].create_room(json!({ "preset": "public_chat" })).await;
    joins(&users[1], &room, &users[0]).await;
    joins(&users[2], &room, &users[0]).await;
    IS_BAD.store(true, Ordering::Relaxed);

    let mut said = Vec::new();
    for round in 0..30 {
        if round == 10 {
            // In mid-traffic one is killed, and is away for a while.
            let crashed = servers.remove(1).crash();
            for user in [0, 2] {
                said.push(format!("while bob was away, {user}"));
                users[user].say(&room, said.last().unwrap()).await;
            }
            let restarted = crashed.restart();
            users[1] = users[1].at(&restarted);
            servers.insert(1, restarted);
        }
        for (number, user) in users.iter().enumerate() {
            said.push(format!("{round} of {number}"));
            user.say(&room, said.last().unwrap()).await;
        }
    }
    said.sort();
    for user in &users {
        let everything = tokio::time::timeout(4 * SOON, async {
            while written(user, &room).await != said {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        if everything.await.is_err() {
            assert_eq!(written(user, &room).await, said, "what {} reads", user.id);
        }
    }
    // Nothing comes twice, later on either.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for user in &users {
        assert_eq!(written(user, &room).await, said, "what {} reads", user.id);
    }
}
