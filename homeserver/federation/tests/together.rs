//! Transactions whose events are written together: with bad ones among them, from many servers at once, and given up by who sent them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::{collections::BTreeSet, sync::Arc};

use entente_federation::Transaction;
use entente_rooms::{Direction, EventFilter, MembershipRequest, Preset, Profile};
use futures_util::{future::join_all, poll};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId,
};

use self::network::{Home, Network};

const VERSION: RoomVersionId = RoomVersionId::V12;

async fn bodies(home: &Home, room: &RoomId, reader: &UserId) -> Vec<String> {
    let view = home.rooms.view(room).await.unwrap();
    let end = view.timeline_end().await.unwrap();
    let filter = EventFilter::default();
    let page = view.timeline(reader, end, None, Direction::Backward, 1_000, &filter).await.unwrap();
    let body = |seen: &entente_rooms::Seen| {
        let content: serde_json::Value = seen.event.content_as().unwrap();
        content["body"].as_str().map(str::to_owned)
    };
    page.events.iter().rev().filter_map(body).collect()
}

/// Sends events in one transaction. Answers what became of each, by its id.
async fn transact(
    from: &Home,
    to: &Home,
    transaction_id: &str,
    pdus: &[CanonicalJsonObject],
) -> Vec<(OwnedEventId, Result<(), String>)> {
    let (origin, transaction_id) = (from.rooms.server_name().to_owned(), transaction_id.to_owned());
    let transaction = Transaction { origin, transaction_id, pdus: pdus.to_vec() };
    let answer = to.shared.receive(transaction).await.unwrap();
    answer.iter().map(|(id, outcome)| (id.clone(), outcome.clone())).collect()
}

#[tokio::test]
async fn bad_events_in_a_transaction_spoil_no_others() {
    let network = Arc::new(Network::default());
    let sender = Home::new(&network, "sender.example", 1).await;
    let at_once = Home::new(&network, "at.once.example", 2).await;
    let one_by_one = Home::new(&network, "one.by.one.example", 3).await;
    let (alice, stranger) = (sender.user("alice"), sender.user("stranger"));
    let room = sender.create(&alice, VERSION, Preset::Public).await;
    let elsewhere = sender.create(&alice, VERSION, Preset::Public).await;
    for home in [&at_once, &one_by_one] {
        home.join(&room, &home.user("reader"), &sender).await.unwrap();
    }
    let joined = sender.rooms.view(&room).await.unwrap().newest_events().await.unwrap();
    assert_eq!(sender.deliver(&at_once, &room, &joined).await, Vec::<String>::new());

    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut pdus = Vec::new();
    for number in 0..40 {
        let said = sender.say(&room, &alice, &format!("{number}")).await;
        let good = sender.event(&room, &said).await;
        let mut bad = good.clone();
        match number {
            // Not signed by its server.
            5 => drop(bad.insert(
                "signatures".to_owned(),
                sender.event(&room, &joined[0]).await["signatures"].clone(),
            )),
            // Of somebody who is not in the room.
            10 => drop(bad.insert("sender".to_owned(), text(stranger.as_str()))),
            // Of another room.
            15 => drop(bad.insert("room_id".to_owned(), text(elsewhere.as_str()))),
            // No event.
            20 => drop(bad.remove("content")),
            // Behind one that nobody has.
            25 => {
                let nothing = CanonicalJsonValue::Array(vec![text(&format!("${:043}", 0))]);
                bad.insert("prev_events".to_owned(), nothing);
            }
            // Twice the same.
            _ => {
                pdus.push(good.clone());
                if number == 30 {
                    pdus.push(good);
                }
                continue;
            }
        }
        // The good one comes first: what follows is built upon it.
        let bad = if matches!(number, 10 | 15 | 25) { sender.resign(bad, &VERSION) } else { bad };
        pdus.extend([good, bad]);
    }
    let answers = transact(&sender, &at_once, "all", &pdus).await;
    let mut expected = Vec::new();
    for (number, pdu) in pdus.iter().enumerate() {
        expected.extend(transact(&sender, &one_by_one, &number.to_string(), std::slice::from_ref(pdu)).await);
    }
    expected.sort();
    expected.dedup();
    let mut sorted = answers.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    assert_eq!(answers.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 40);
    assert!(answers.iter().any(|(_, outcome)| outcome.is_err()), "{answers:?}");
    let said: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    for home in [&at_once, &one_by_one] {
        assert_eq!(bodies(home, &room, &home.user("reader")).await, said);
    }
    assert_eq!(at_once.state(&room).await, one_by_one.state(&room).await);

    // The same transaction again is answered the same, and changes nothing.
    assert_eq!(transact(&sender, &at_once, "all", &pdus).await, answers);
    assert_eq!(transact(&sender, &at_once, "under another id", &pdus).await.len(), answers.len());
    assert_eq!(bodies(&at_once, &room, &at_once.user("reader")).await, said);
}

/// A room of one server in which users of others are, and what each of them says there before it hears of the others.
async fn busy_room(
    network: &Arc<Network>,
    home: &Home,
    servers: usize,
    messages: usize,
) -> (OwnedRoomId, Vec<Home>, Vec<Vec<OwnedEventId>>) {
    let room = home.create(&home.user("alice"), VERSION, Preset::Public).await;
    let (mut others, mut said) = (Vec::new(), Vec::new());
    for (number, seed) in (0..servers).zip(10..) {
        let other = Home::new(network, &format!("server{number}.example"), seed).await;
        let user = other.user("user");
        other.join(&room, &user, home).await.unwrap();
        let second = other.user("second");
        other.rooms.join(&room, &MembershipRequest::own(&second, Profile::default(), None)).await.unwrap();
        let view = other.rooms.view(&room).await.unwrap();
        let mut of_server = view.newest_events().await.unwrap();
        for message in 0..messages {
            let sender = if message % 2 == 0 { &user } else { &second };
            of_server.push(other.say(&room, sender, &format!("{number} {message}")).await);
        }
        others.push(other);
        said.push(of_server);
    }
    (room, others, said)
}

fn all_said(servers: usize, messages: usize) -> BTreeSet<String> {
    let of_server = |server| (0..messages).map(move |message| format!("{server} {message}"));
    (0..servers).flat_map(of_server).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_servers_speak_at_once() {
    const SERVERS: usize = 6;
    const MESSAGES: usize = 12;
    let network = Arc::new(Network::default());
    let home = Home::new(&network, "home.example", 1).await;
    let (room, others, said) = busy_room(&network, &home, SERVERS, MESSAGES).await;
    let mut sending = Vec::new();
    for (other, said) in others.iter().zip(&said) {
        let (home, room) = (&home, &room);
        sending.push(async move {
            for some in said.chunks(3) {
                assert_eq!(other.deliver(home, room, some).await, Vec::<String>::new());
            }
        });
    }
    join_all(sending).await;
    let heard = bodies(&home, &room, &home.user("alice")).await;
    assert_eq!(heard.len(), SERVERS * MESSAGES, "each once");
    assert_eq!(heard.iter().cloned().collect::<BTreeSet<_>>(), all_said(SERVERS, MESSAGES));
    for server in 0..SERVERS {
        let prefix = format!("{server} ");
        let of_server: Vec<&String> = heard.iter().filter(|body| body.starts_with(&prefix)).collect();
        let in_order: Vec<String> = (0..MESSAGES).map(|message| format!("{prefix}{message}")).collect();
        assert_eq!(of_server, in_order.iter().collect::<Vec<_>>(), "in the order of their server");
    }
    // What came while something was written was written together.
    let view = home.rooms.view(&room).await.unwrap();
    let mut commits = BTreeSet::new();
    for event_id in said.iter().flatten() {
        let event = view.event_by_id(event_id).await.unwrap().unwrap();
        commits.insert(format!("{:?}", event.position));
    }
    let transactions = SERVERS * (MESSAGES + 1).div_ceil(3);
    assert!(commits.len() < transactions, "{} commits for {transactions} transactions", commits.len());
}

#[tokio::test]
async fn who_hangs_up_takes_nobody_along() {
    const MESSAGES: usize = 40;
    let network = Arc::new(Network::default());
    let home = Home::new(&network, "home.example", 1).await;
    let (room, others, said) = busy_room(&network, &home, 2, MESSAGES).await;
    for (first, second) in said[0].chunks(3).zip(said[1].chunks(3)) {
        let is_done = {
            let mut given_up = Box::pin(others[0].deliver(&home, &room, first));
            let mut heard = Box::pin(others[1].deliver(&home, &room, second));
            // Further each time, up to where it is done.
            let mut is_done = false;
            for _ in 0..first.len() + second.len() {
                is_done = is_done || poll!(&mut given_up).is_ready();
                tokio::task::yield_now().await;
                if poll!(&mut heard).is_ready() {
                    break;
                }
            }
            is_done
        };
        // Again, as servers do that had no answer.
        if !is_done {
            assert_eq!(others[0].deliver(&home, &room, first).await, Vec::<String>::new());
        }
        assert_eq!(others[1].deliver(&home, &room, second).await, Vec::<String>::new());
    }
    let heard = bodies(&home, &room, &home.user("alice")).await;
    assert_eq!(heard.len(), 2 * MESSAGES, "each once");
    assert_eq!(heard.into_iter().collect::<BTreeSet<_>>(), all_said(2, MESSAGES));
}
