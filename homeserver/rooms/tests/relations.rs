//! Which events relate to which, whatever the order in which a server hears of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use std::collections::BTreeSet;

use entente_rooms::{
    Chapter, Direction, Draft, EventFilter, Reader, RelatedBy, RelatedFilter, RoomView, Shape, TimelineSpan,
    object,
};
use proptest::prelude::*;
use ruma::{OwnedEventId, RoomVersionId, UserId, events::TimelineEventType};
use serde_json::{Value, json};

use self::servers::{Home, Shared};

/// How an event of this kind relates to another.
fn relation(rel_type: &str, event_id: &OwnedEventId, body: &str) -> Value {
    let content = json!({ "msgtype": "m.text", "body": body });
    json!({
        "msgtype": "m.text", "body": body, "m.new_content": content,
        "m.relates_to": { "rel_type": rel_type, "event_id": event_id, "key": "x" },
    })
}

async fn send(home: &Home, shared: &Shared, sender: &UserId, content: Value) -> OwnedEventId {
    let draft = Draft::message(sender, TimelineEventType::RoomMessage, object(content).unwrap());
    home.send(&shared.room, draft).await.unwrap()
}

/// Fetches everything before the room's beginning at the other server, a few events at a time.
async fn backfill(shared: &Shared, limit: usize) -> usize {
    let mut chapters = 0;
    loop {
        let view = shared.other.rooms.view(&shared.room).await.unwrap();
        let open = view.unknown_before(&view.oldest_events(limit).await.unwrap()).await.unwrap();
        if open.is_empty() {
            return chapters;
        }
        let source = shared.one.rooms.view(&shared.room).await.unwrap();
        let mut events = source.history_before(&open, limit).await.unwrap();
        events.reverse();
        let first = events.first().unwrap().event_id.clone();
        let (state, auth_chain) = source.state_before(&first).await.unwrap();
        let told =
            shared.told(state.iter().map(|event| event.json()), auth_chain.iter().map(|event| event.json()));
        let events = events.iter().map(|event| shared.verified(event.json())).collect();
        let chapter = Chapter { events, told: vec![(first, told)], ..Chapter::default() };
        assert!(shared.other.rooms.add_history(&shared.room, &chapter).await.unwrap() > 0);
        chapters += 1;
    }
}

/// What a user is told of the relations to an event.
async fn told(view: &RoomView, reader: &UserId, event_id: &OwnedEventId) -> Value {
    let seen = [view.visible_event(reader, event_id).await.unwrap()];
    let reader = Reader { user_id: reader, device_id: "PHONE" };
    let written = view.client_events(reader, &seen, Shape::WithRoom).await.unwrap();
    let written: Value = serde_json::from_slice(&written[0]).unwrap();
    let relations = &written["unsigned"]["m.relations"];
    let mut references: Vec<&str> = relations["m.reference"]["chunk"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| event["event_id"].as_str().unwrap())
        .collect();
    references.sort_unstable();
    json!({
        "edit": relations["m.replace"]["event_id"],
        "thread": [
            relations["m.thread"]["count"],
            relations["m.thread"]["latest_event"]["event_id"],
            relations["m.thread"]["current_user_participated"],
        ],
        "references": references,
    })
}

async fn related(view: &RoomView, reader: &UserId, event_id: &OwnedEventId) -> BTreeSet<OwnedEventId> {
    let target = view.event_by_id(event_id).await.unwrap().unwrap();
    let filter = RelatedFilter { rel_type: None, event_type: None, recurse: false };
    let span = TimelineSpan { from: None, to: None, direction: Direction::Backward };
    let page = view.related(reader, &target, &filter, span, 100).await.unwrap();
    page.events.into_iter().map(|seen| seen.event.event_id.clone()).collect()
}

async fn threads(view: &RoomView, reader: &UserId) -> Vec<OwnedEventId> {
    let page = view.threads(reader, None, false, 10).await.unwrap();
    page.roots.into_iter().map(|seen| seen.event.event_id.clone()).collect()
}

#[tokio::test]
async fn what_relates_to_history_is_known_though_it_came_before() {
    for limit in [2, 5, 100] {
        let shared = Shared::new(&RoomVersionId::V12).await;
        let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
        let mut roots = Vec::new();
        for number in 0..3 {
            roots.push(shared.one.say(&shared.room, &alice, &format!("root {number}")).await);
        }
        let mut last = None;
        for number in 0..9 {
            let root = &roots[number % 2];
            for rel_type in ["m.thread", "m.replace", "m.reference", "m.annotation"] {
                let content = relation(rel_type, root, &format!("{rel_type} {number}"));
                let event_id = send(&shared.one, &shared, &alice, content).await;
                last = Some(event_id).filter(|_| rel_type == "m.thread").or(last);
            }
        }
        shared.one.rooms.redact(&shared.room, &alice, &last.unwrap(), None, None).await.unwrap();
        shared.join(&bob).await;
        let answer = send(&shared.other, &shared, &bob, relation("m.thread", &roots[1], "late")).await;
        shared.deliver(&shared.other, &shared.one, &[answer]).await;

        assert!(backfill(&shared, limit).await >= 1);
        let one = shared.one.rooms.view(&shared.room).await.unwrap();
        let other = shared.other.rooms.view(&shared.room).await.unwrap();
        for (place, root) in roots.iter().enumerate() {
            let expected = told(&one, &bob, root).await;
            assert_eq!(told(&other, &bob, root).await, expected, "root {place}, {limit} at a time");
            assert_eq!(related(&other, &bob, root).await, related(&one, &bob, root).await);
        }
        // Five replies and four, of which one was redacted, and Bob's.
        assert_eq!(told(&one, &bob, &roots[0]).await["thread"][0], 4);
        assert_eq!(told(&one, &bob, &roots[1]).await["thread"][0], 5);
        assert_eq!(threads(&other, &bob).await, threads(&one, &bob).await);
        assert_eq!(threads(&other, &bob).await, [roots[1].clone(), roots[0].clone()]);
    }
}

/// An event: to which of those before it it relates and how, and who sends it.
#[derive(Clone, Debug)]
struct Made {
    relates_to: Option<(usize, usize)>,
    sender: usize,
}

const REL_TYPES: [&str; 3] = ["m.thread", "m.annotation", "org.example"];

fn made() -> impl Strategy<Value = Vec<Made>> {
    let relates_to = prop::option::weighted(0.7, (0..1_000_usize, 0..REL_TYPES.len()));
    let made = (relates_to, 0..3_usize).prop_map(|(relates_to, sender)| Made { relates_to, sender });
    prop::collection::vec(made, 1..40)
}

/// Lists of a filter: `None` asks for nothing.
fn asked(most: usize) -> impl Strategy<Value = Option<Vec<usize>>> {
    prop::option::of(prop::collection::vec(0..most, 0..3))
}

async fn compare(made: &[Made], senders: Option<&[usize]>, rel_types: Option<&[usize]>, hot: usize) {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (home, room) = (&shared.one, &shared.room);
    let users = ["alice", "bob", "carol"].map(|name| home.user(name));
    for user in &users[1..] {
        let join = entente_rooms::MembershipRequest::own(user, entente_rooms::Profile::default(), None);
        home.rooms.join(room, &join).await.unwrap();
    }
    let mut events: Vec<OwnedEventId> = Vec::new();
    // Which events have a relation by this user and of this kind.
    let mut relations: BTreeSet<(usize, usize, usize)> = BTreeSet::new();
    for Made { relates_to, sender } in made {
        let content = match relates_to {
            Some((target, rel_type)) if !events.is_empty() => {
                let target = target % events.len();
                relations.insert((target, *sender, *rel_type));
                relation(REL_TYPES[*rel_type], &events[target], "x")
            }
            _ => json!({ "body": "x" }),
        };
        events.push(send(home, &shared, &users[*sender], content).await);
    }
    // One event to which more relates than is read at once.
    for _ in 0..hot {
        send(home, &shared, &users[0], relation(REL_TYPES[1], &events[0], "x")).await;
        relations.insert((0, 0, 1));
    }
    let is_wanted = |place: &usize| {
        let is_asked = |list: Option<&[usize]>, value| list.is_none_or(|list| list.contains(value));
        relations.iter().any(|(target, sender, rel_type)| {
            target == place && is_asked(senders, sender) && is_asked(rel_types, rel_type)
        })
    };
    let expected: Vec<&OwnedEventId> =
        (0..events.len()).filter(is_wanted).map(|place| &events[place]).collect();
    let mut filter = serde_json::Map::new();
    if let Some(senders) = senders {
        let senders: Vec<&str> = senders.iter().map(|sender| users[*sender].as_str()).collect();
        filter.insert("related_by_senders".to_owned(), json!(senders));
    }
    if let Some(rel_types) = rel_types {
        let rel_types: Vec<&str> = rel_types.iter().map(|rel_type| REL_TYPES[*rel_type]).collect();
        filter.insert("related_by_rel_types".to_owned(), json!(rel_types));
    }
    let asks = !filter.is_empty();
    let related_by: RelatedBy = serde_json::from_value(Value::Object(filter)).unwrap();
    let filter = EventFilter::default().related_by(related_by);
    assert_eq!(filter.passes_all(), !asks);
    if !asks {
        return;
    }
    let view = home.rooms.view(room).await.unwrap();
    let end = view.timeline_end().await.unwrap();
    let page = view.timeline(&users[0], end, None, Direction::Backward, 1_000, &filter).await.unwrap();
    let mut found: Vec<&OwnedEventId> = page.events.iter().map(|seen| &seen.event.event_id).collect();
    found.reverse();
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_finds_what_is_related_to(made in made(), senders in asked(3), rel_types in asked(3)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&made, senders.as_deref(), rel_types.as_deref(), 0));
    }
}

#[tokio::test]
async fn an_event_to_which_much_relates_hides_no_other() {
    let plain = Made { relates_to: None, sender: 0 };
    let reply = Made { relates_to: Some((1, 0)), sender: 1 };
    // The relations to the second event lie behind hundreds to the first.
    let made = [plain.clone(), plain, reply];
    for (senders, rel_types) in
        [(Some(vec![1]), None), (None, Some(vec![0])), (Some(vec![2]), None), (Some(vec![0]), Some(vec![1]))]
    {
        compare(&made, senders.as_deref(), rel_types.as_deref(), 450).await;
    }
}
