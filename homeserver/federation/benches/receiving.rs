//! How many events of another server are taken into a room of 5 000 members, with all checks on: signatures, hashes, authorisation by
//! the events that each names, by the state before it, and by the present state. See docs/benchmarks.md.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark says what it measured, or fails")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "../tests/network/mod.rs"]
mod network;

use std::{sync::Arc, time::Instant};

use entente_federation::Transaction;
use entente_rooms::{MembershipRequest, Preset, Profile};
use ruma::RoomVersionId;

use self::network::{Home, Network};

const MEMBERS: usize = 5_000;
const EVENTS: usize = 10_000;
/// Events of one transaction (S-S API, "Transactions").
const AT_ONCE: usize = 50;
/// What the kernel counts CPU time in.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(receive());
}

async fn receive() {
    let network = Arc::new(Network::default());
    let sender = Home::new(&network, "sender.example", 1).await;
    let receiver = Home::new(&network, "receiver.example", 2).await;
    let creator = sender.user("creator");
    let room = sender.create(&creator, RoomVersionId::V12, Preset::Public).await;
    let mut members = Vec::with_capacity(MEMBERS);
    for number in 0..MEMBERS {
        let member = sender.user(&format!("member{number}"));
        let request = MembershipRequest::own(&member, Profile::default(), None);
        sender.rooms.join(&room, &request).await.unwrap();
        members.push(member);
    }
    let begin = Instant::now();
    receiver.join(&room, &receiver.user("reader"), &sender).await.unwrap();
    println!("join of a room of {MEMBERS} members: {:.2?}", begin.elapsed());

    let mut transactions = Vec::new();
    let mut pdus = Vec::new();
    for number in 0..EVENTS {
        let author = &members[number % MEMBERS];
        let said = sender.say(&room, author, &format!("message {number}")).await;
        pdus.push(sender.event(&room, &said).await);
        if pdus.len() == AT_ONCE {
            let origin = sender.rooms.server_name().to_owned();
            let transaction_id = number.to_string();
            transactions.push(Transaction { origin, transaction_id, pdus: std::mem::take(&mut pdus) });
        }
    }
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let mut taken: usize = 0;
    for transaction in transactions {
        let answer = receiver.shared.receive(transaction).await.unwrap();
        taken += answer.values().filter(|outcome| outcome.is_ok()).count();
    }
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    assert_eq!(taken, EVENTS, "events were refused");
    let taken = f64::from(u32::try_from(taken).unwrap());
    println!("{:.0} events/s, {:.0} events per CPU-second", taken / seconds, taken / cpu);
}

/// What this process has computed, in seconds (proc(5), `stat`).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The second field, a name in brackets, may have spaces.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}
