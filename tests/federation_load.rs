//! What federation costs, at this server and at Synapse in turns: rooms of many members are joined, events are taken in from one server
//! and from many at once, and messages go out to fifty servers. See docs/benchmarks.md.
//!
//! `cargo test -p entente-tests --test federation_load -- --ignored --nocapture --test-threads 1`, with a program that was built for release in
//! `ENTENTE_TEST_PROGRAM`. With `ENTENTE_LOAD_WITHOUT_SYNAPSE` in the environment this server is measured alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures time, and is told by the environment what to measure"
)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use entente_tests::{Authority, Peer, PeerRoom, Server, Synapse, User, segment};
use futures_util::future::join_all;
use ruma::RoomVersionId;
use serde_json::json;

/// What may take very long, beside other work.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Events of one transaction (S-S API, "Transactions").
const AT_ONCE: usize = 50;
/// What the kernel counts CPU time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server that is measured.
struct Measured {
    label: &'static str,
    name: String,
    process_id: u32,
    user: User,
}

/// Both servers, in the order in which they are measured.
async fn both(authority: &Authority) -> (Server, Option<Synapse>, Vec<Measured>) {
    let server = authority.server(&[]);
    let mut measured = vec![Measured {
        label: "Entente",
        name: server.name(),
        process_id: server.process_id(),
        user: User::register(&server, "alice").await,
    }];
    let mut synapse = None;
    if std::env::var_os("ENTENTE_LOAD_WITHOUT_SYNAPSE").is_none() {
        let started = Synapse::start(authority).await;
        measured.push(Measured {
            label: "Synapse",
            name: started.name.clone(),
            process_id: started.process_id(),
            user: User::register_at(&started.base_url, "bob").await,
        });
        synapse = Some(started);
    }
    (server, synapse, measured)
}

/// What came of sending events.
struct Outcome {
    begun: Instant,
    cpu: f64,
}

impl Outcome {
    fn begin(measured: &Measured) -> Self {
        Self { begun: Instant::now(), cpu: measured.cpu_seconds() }
    }

    /// What it cost, in words.
    fn cost(&self, measured: &Measured, what: &str, events: usize) -> String {
        let (seconds, cpu) = (self.begun.elapsed().as_secs_f64(), measured.cpu_seconds() - self.cpu);
        let count = f64::from(u32::try_from(events).unwrap());
        format!(
            "{}: {events} events {what}: {:.0} events/s, {:.0} events per CPU-second, {} MiB now, {} MiB at the most",
            measured.label,
            count / seconds,
            count / cpu,
            measured.memory("VmRSS:"),
            measured.memory("VmHWM:"),
        )
    }
}

impl Measured {
    /// What its process has computed, in seconds (proc(5), `stat`).
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id)).unwrap();
        // The second field, a name in brackets, may have spaces.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Its memory, in MiB: what it has (`VmRSS:`), or the most that it has had (`VmHWM:`).
    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// Waits until it does nothing.
    async fn rests(&self) {
        let rest = tokio::time::timeout(PATIENCE, async {
            loop {
                let before = self.cpu_seconds();
                tokio::time::sleep(Duration::from_secs(1)).await;
                if self.cpu_seconds() - before < 0.05 {
                    break;
                }
            }
        });
        rest.await.expect("the server comes to rest");
    }

    async fn join(&self, peer: &Peer, room: &str) {
        let server = segment(&peer.name);
        let path = format!("/_matrix/client/v3/join/{}?server_name={server}&via={server}", segment(room));
        self.user.post(&path, &json!({})).await.ok();
    }

    /// Waits until its user can read an event.
    async fn has(&self, room: &str, event_id: &str) {
        let seen = tokio::time::timeout(PATIENCE, async {
            while self.user.event(room, event_id).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        seen.await.expect("the event is there");
    }
}

/// A room of the first of some servers of ours with so many members, who are at all of them in turns.
fn crowd(peers: &[Peer], members: usize) -> PeerRoom {
    let mut room = peers[0].room(&RoomVersionId::V12);
    for number in 0..members {
        let (peer, user) = member(peers, number);
        let content = json!({ "membership": "join", "displayname": format!("Member {number}") });
        room.set(peer, &user, "m.room.member", &user, content);
    }
    room
}

fn member(peers: &[Peer], number: usize) -> (&Peer, String) {
    let peer = &peers[number % peers.len()];
    (peer, peer.user(&format!("member{number}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn joining() {
    let authority = Authority::new();
    let (_server, _synapse, both) = both(&authority).await;
    for members in [2_000, 20_000] {
        for measured in &both {
            let peer = Peer::start(&authority);
            let room = Arc::new(Mutex::new(crowd(std::slice::from_ref(&peer), members)));
            let id = room.lock().unwrap().id.clone();
            peer.host(&room);
            measured.rests().await;
            let (begun, cpu) = (Instant::now(), measured.cpu_seconds());
            measured.join(&peer, &id).await;
            let waited = begun.elapsed().as_secs_f64();
            measured.rests().await;
            println!(
                "{}: join of a room of {members}: {waited:.2} s waited, {:.2} CPU-s until at rest, {} MiB at the most",
                measured.label,
                measured.cpu_seconds() - cpu,
                measured.memory("VmHWM:"),
            );
        }
    }
}

/// Members of the busy room.
const MEMBERS: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn receiving() {
    let authority = Authority::new();
    let (_server, _synapse, both) = both(&authority).await;
    for (measured, events) in both.iter().zip([20_000, 2_000]) {
        let peer = Peer::start(&authority);
        let room = Arc::new(Mutex::new(crowd(std::slice::from_ref(&peer), MEMBERS)));
        let id = room.lock().unwrap().id.clone();
        peer.host(&room);
        measured.join(&peer, &id).await;
        let mut said = Vec::with_capacity(events);
        {
            let mut room = room.lock().unwrap();
            for number in 0..events {
                let member = peer.user(&format!("member{}", number % MEMBERS));
                let event = room.message(&peer, &member, &format!("message {number}"));
                room.add(&event);
                said.push(event);
            }
        }
        measured.rests().await;
        let outcome = Outcome::begin(measured);
        for some in said.chunks(AT_ONCE) {
            assert_eq!(peer.send_and_ask(&measured.name, some).await.len(), 0);
            // Synapse takes them in later, and drops what it has too much of.
            let last = room.lock().unwrap().id_of(some.last().unwrap());
            measured.has(&id, &last).await;
        }
        println!("{}", outcome.cost(measured, "of one server", events));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn receiving_from_many() {
    const SERVERS: usize = 20;
    /// Events of one transaction of one of them.
    const FEW: usize = 2;
    let authority = Authority::new();
    let (_server, _synapse, both) = both(&authority).await;
    for (measured, of_each) in both.iter().zip([500, 20]) {
        let peers: Vec<Peer> = (0..SERVERS).map(|_| Peer::start(&authority)).collect();
        let room = Arc::new(Mutex::new(crowd(&peers, MEMBERS)));
        let id = room.lock().unwrap().id.clone();
        peers[0].host(&room);
        measured.join(&peers[0], &id).await;
        let mut said = vec![Vec::new(); SERVERS];
        {
            // Each goes on from the join, and has not heard of the others.
            let mut room = room.lock().unwrap();
            let (newest, depth) = (room.newest.clone(), room.depth);
            for (place, of_server) in said.iter_mut().enumerate() {
                (room.newest, room.depth) = (newest.clone(), depth);
                for number in 0..of_each {
                    let (peer, member) = member(&peers, (number * SERVERS + place) % MEMBERS);
                    let event = room.message(peer, &member, &format!("message {number} of {place}"));
                    room.add(&event);
                    of_server.push((room.newest.clone(), event));
                }
            }
        }
        measured.rests().await;
        let outcome = Outcome::begin(measured);
        let mut sending = Vec::with_capacity(SERVERS);
        for (peer, said) in peers.iter().zip(&said) {
            let id = &id;
            sending.push(async move {
                for some in said.chunks(FEW) {
                    let events: Vec<_> = some.iter().map(|(_, event)| event.clone()).collect();
                    assert_eq!(peer.send_and_ask(&measured.name, &events).await.len(), 0);
                    measured.has(id, &some.last().unwrap().0).await;
                }
            });
        }
        join_all(sending).await;
        println!("{}", outcome.cost(measured, &format!("of {SERVERS} servers at once"), SERVERS * of_each));
    }
}

/// When each of the servers was sent a message, after a moment.
fn delays(peers: &[Peer], text: &str, since: Instant) -> Vec<Duration> {
    let heard = |peer: &Peer| {
        let sent = peer.requests("/federation/v1/send/");
        let has = |pdu: &serde_json::Value| pdu["content"]["body"] == text;
        let with = sent.iter().find(|request| request.body["pdus"].as_array().unwrap().iter().any(has));
        with.map(|request| request.at.saturating_duration_since(since))
    };
    peers.iter().filter_map(heard).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn delivering() {
    const PEERS: usize = 50;
    const MESSAGES: usize = 100;
    let authority = Authority::new();
    let (_server, _synapse, both) = both(&authority).await;
    for measured in &both {
        let room = json!({ "preset": "public_chat", "room_version": "11" });
        let room = measured.user.create_room(room).await;
        let peers: Vec<Peer> = (0..PEERS).map(|_| Peer::start(&authority)).collect();
        for peer in &peers {
            peer.join(&measured.name, &room, &peer.user("member")).await;
        }
        measured.rests().await;
        // The first message makes the connections.
        measured.user.say(&room, "hello").await;
        measured.rests().await;
        let cpu = measured.cpu_seconds();
        let (mut all, mut last): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
        for number in 0..MESSAGES {
            let text = format!("message {number}");
            let since = Instant::now();
            measured.user.say(&room, &text).await;
            let arrived = tokio::time::timeout(PATIENCE, async {
                while delays(&peers, &text, since).len() < PEERS {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            arrived.await.expect("every server hears it");
            let of_message = delays(&peers, &text, since);
            last.extend(of_message.iter().max());
            all.extend(of_message);
            peers.iter().for_each(Peer::forget_requests);
        }
        let cpu = measured.cpu_seconds() - cpu;
        println!(
            "{}: a message to {PEERS} servers: at one {}, at the last {}; {:.2} CPU-ms a delivery",
            measured.label,
            spread(&mut all),
            spread(&mut last),
            cpu * 1_000.0 / f64::from(u32::try_from(all.len()).unwrap()),
        );
    }
}

/// The median of some delays, and what all but one of a hundred stay below.
fn spread(delays: &mut [Duration]) -> String {
    delays.sort();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    format!("after {:.1} ms at the median, {:.1} ms at p99", at(50), at(99))
}
