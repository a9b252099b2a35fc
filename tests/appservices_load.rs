//! Many events through several application services, one of which is away for half of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use entente_tests::{SOON, Server, Service, User};
use serde_json::json;

const ROOMS: usize = 4;
const EVENTS: usize = 10_000;
const SERVICES: [&str; 3] = ["one", "two", "three"];

#[expect(clippy::disallowed_methods, reason = "tests read the time")]
fn now() -> Instant {
    Instant::now()
}

/// The numbers that a service heard in each room, in its order.
fn heard(service: &Service) -> HashMap<String, Vec<usize>> {
    let mut heard: HashMap<String, Vec<usize>> = HashMap::new();
    for event in service.events() {
        let number = event["content"]["body"].as_str().and_then(|body| body.parse().ok());
        if let (Some(number), Some(room)) = (number, event["room_id"].as_str()) {
            heard.entry(room.to_owned()).or_default().push(number);
        }
    }
    heard
}

/// How long after an event was acknowledged a service had it, at the median, of events with numbers in a range.
fn median_delay(service: &Service, sent: &HashMap<usize, Instant>, half: &Range<usize>) -> Duration {
    let mut delays = Vec::new();
    for transaction in service.transactions() {
        for event in transaction.body["events"].as_array().unwrap() {
            let number = event["content"]["body"].as_str().and_then(|body| body.parse::<usize>().ok());
            if let Some(number) = number.filter(|number| half.contains(number)) {
                delays.push(transaction.at.saturating_duration_since(sent[&number]));
            }
        }
    }
    delays.sort();
    delays[delays.len() / 2]
}

/// Says numbers, a share of them in each room at once. Answers when each was acknowledged.
async fn say_all(alice: &User, rooms: &[String], numbers: &Range<usize>) -> HashMap<usize, Instant> {
    let said = rooms.iter().enumerate().map(|(place, room)| {
        let (alice, room, numbers) = (alice.clone(), room.clone(), numbers.clone());
        tokio::spawn(async move {
            let mut sent = Vec::new();
            for number in numbers.skip(place).step_by(ROOMS) {
                alice.say(&room, &number.to_string()).await;
                sent.push((number, now()));
            }
            sent
        })
    });
    let mut sent = HashMap::new();
    for task in said.collect::<Vec<_>>() {
        sent.extend(task.await.unwrap());
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_come_in_order_whoever_is_away() {
    let services = SERVICES.map(|_| Service::start());
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("services")).unwrap();
    for (id, service) in SERVICES.iter().zip(&services) {
        let path = directory.path().join(format!("services/{id}.yaml"));
        std::fs::write(path, service.registration(id, "")).unwrap();
    }
    let server = Server::start(
        directory,
        &[
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
            ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"services\"]"),
        ],
    );
    let alice = User::register(&server, "alice").await;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        for id in SERVICES {
            server.caller(&format!("as-{id}")).post(&User::in_room(&room, "join"), &json!({})).await.ok();
        }
        rooms.push(room);
    }
    let begun = now();
    let mut sent = say_all(&alice, &rooms, &(0..EVENTS / 2)).await;
    let [one, two, down] = &services;
    down.refuse(true);
    sent.extend(say_all(&alice, &rooms, &(EVENTS / 2..EVENTS)).await);
    let said = begun.elapsed();
    let has_all = |service: &Service| heard(service).values().map(Vec::len).sum::<usize>() >= EVENTS;
    for healthy in [one, two] {
        healthy.until_within(4 * SOON, "everything", has_all).await;
    }
    assert!(!has_all(down));
    down.refuse(false);
    // The pause of a service that was away ends when it asks for something.
    let come_back = now();
    server.caller("as-three").get("/_matrix/client/v3/account/whoami").await.ok();
    down.until_within(4 * SOON, "everything", has_all).await;
    let caught_up = come_back.elapsed();

    let expected: HashMap<String, Vec<usize>> = rooms
        .iter()
        .enumerate()
        .map(|(place, room)| (room.clone(), (0..EVENTS).skip(place).step_by(ROOMS).collect()))
        .collect();
    for service in &services {
        assert_eq!(heard(service), expected, "in order, each once");
    }
    let per_second =
        |count: usize, time: Duration| u128::try_from(count).unwrap() * 1_000 / time.as_millis().max(1);
    println!("{EVENTS} events said and brought to three services: {} a second", per_second(EVENTS, said));
    println!("half of them caught up with: {} a second", per_second(EVENTS / 2, caught_up));
    for healthy in [one, two] {
        let before = median_delay(healthy, &sent, &(0..EVENTS / 2));
        let beside = median_delay(healthy, &sent, &(EVENTS / 2..EVENTS));
        println!("delay at the median: {before:?} with all there, {beside:?} beside one that is away");
        assert!(beside < before * 4 + Duration::from_secs(5), "{before:?} {beside:?}");
    }
}
