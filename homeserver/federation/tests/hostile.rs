//! Servers that mean harm: what they send is refused or has no effect, what they make this server ask is bounded, and the room they
//! attack stays usable.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use entente_rooms::{Direction, EventFilter, Preset};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    RoomVersionId, UserId,
};
use serde_json::json;

use self::network::{Home, Network};

const VERSION: RoomVersionId = RoomVersionId::V12;

/// A room of a good server and an evil one.
struct Scene {
    network: Arc<Network>,
    good: Home,
    evil: Home,
    alice: OwnedUserId,
    mallory: OwnedUserId,
    room: OwnedRoomId,
}

impl Scene {
    async fn new(version: RoomVersionId) -> Self {
        let network = Arc::new(Network::default());
        let good = Home::new(&network, "good.example", 1).await;
        let evil = Home::new(&network, "evil.example", 2).await;
        let (alice, mallory) = (good.user("alice"), evil.user("mallory"));
        let room = good.create(&alice, version, Preset::Public).await;
        evil.join(&room, &mallory, &good).await.unwrap();
        Self { network, good, evil, alice, mallory, room }
    }

    /// An event of the evil server that would be a good one.
    async fn event(&self, text: &str) -> CanonicalJsonObject {
        let said = self.evil.say(&self.room, &self.mallory, text).await;
        self.evil.event(&self.room, &said).await
    }

    /// Everybody still hears what everybody says.
    async fn check_usable(&self) {
        let said = self.good.say(&self.room, &self.alice, "still here").await;
        assert_eq!(self.good.deliver(&self.evil, &self.room, &[said]).await, Vec::<String>::new());
        let answer = self.evil.say(&self.room, &self.mallory, "so am I").await;
        assert_eq!(self.evil.deliver(&self.good, &self.room, &[answer]).await, Vec::<String>::new());
        let heard = bodies(&self.good, &self.room, &self.alice).await;
        assert_eq!(heard.last().map(String::as_str), Some("so am I"));
        assert!(heard.iter().any(|body| body == "still here"), "{heard:?}");
    }
}

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

fn names(ids: impl IntoIterator<Item = String>) -> CanonicalJsonValue {
    CanonicalJsonValue::Array(ids.into_iter().map(CanonicalJsonValue::String).collect())
}

/// The id of an event that nobody has.
fn unknown_id(number: usize) -> String {
    format!("${number:043}")
}

#[tokio::test]
async fn content_that_was_not_hashed_is_not_read() {
    let scene = Scene::new(VERSION).await;
    let mut event = scene.event("harmless").await;
    let content: CanonicalJsonObject =
        serde_json::from_value(json!({ "msgtype": "m.text", "body": "!" })).unwrap();
    event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    assert_eq!(scene.evil.press(&scene.good, vec![event]).await, 1, "it is taken as if redacted");
    assert!(bodies(&scene.good, &scene.room, &scene.alice).await.is_empty());
    scene.check_usable().await;
}

#[tokio::test]
async fn events_of_another_room_are_no_part_of_this_one() {
    let scene = Scene::new(VERSION).await;
    let elsewhere = scene.evil.create(&scene.mallory, VERSION, Preset::Public).await;
    let there = scene.evil.say(&elsewhere, &scene.mallory, "there").await;
    // An event here that follows one there, and one that is authorised by what was there.
    let here = scene.event("here").await;
    let mut follows = here.clone();
    follows.insert("prev_events".to_owned(), names([there.to_string()]));
    let mut authorised = here.clone();
    let of_there = scene.evil.event(&elsewhere, &there).await;
    authorised.insert("auth_events".to_owned(), of_there["auth_events"].clone());
    let bad = [follows, authorised].map(|event| scene.evil.resign(event, &VERSION));
    assert_eq!(scene.evil.press(&scene.good, bad.to_vec()).await, 0);
    // One of there that is said to be of here.
    let mut moved = of_there;
    moved.insert("room_id".to_owned(), CanonicalJsonValue::String(scene.room.to_string()));
    assert_eq!(scene.evil.press(&scene.good, vec![scene.evil.resign(moved, &VERSION)]).await, 0);
    assert!(bodies(&scene.good, &scene.room, &scene.alice).await.is_empty());
    scene.check_usable().await;
}

#[tokio::test]
async fn events_that_name_each_other_in_a_circle_end() {
    // In the first version events are named as their server likes.
    let scene = Scene::new(RoomVersionId::V1).await;
    let event = scene.event("a").await;
    let circle = ["$a:evil.example", "$b:evil.example"];
    let mut events = Vec::new();
    for (own, other) in [(circle[0], circle[1]), (circle[1], circle[0])] {
        let mut event = event.clone();
        let hash = json!([[other, { "sha256": "A".repeat(43) }]]);
        event.insert("event_id".to_owned(), CanonicalJsonValue::String(own.to_owned()));
        event.insert("prev_events".to_owned(), hash.try_into().unwrap());
        events.push(scene.evil.resign(event, &RoomVersionId::V1));
    }
    let both = events.clone();
    *scene.network.lies.lock() = Some(Box::new(move |endpoint, _| {
        matches!(endpoint, "missing_events" | "event_auth").then(|| both.clone())
    }));
    assert_eq!(scene.evil.press(&scene.good, events).await, 0);
    *scene.network.lies.lock() = None;
    scene.check_usable().await;
}

#[tokio::test]
async fn the_greatest_depth_does_not_end_a_room() {
    let scene = Scene::new(VERSION).await;
    let mut event = scene.event("deep").await;
    event.insert("depth".to_owned(), CanonicalJsonValue::Integer(Int::MAX));
    let event = scene.evil.resign(event, &VERSION);
    scene.evil.press(&scene.good, vec![event]).await;
    for _ in 0..3 {
        scene.good.say(&scene.room, &scene.alice, "on we go").await;
    }
    scene.check_usable().await;
}

#[tokio::test]
async fn what_names_unknown_authority_or_too_many_events_is_refused() {
    let scene = Scene::new(VERSION).await;
    let event = scene.event("?").await;
    let mut unauthorised = event.clone();
    unauthorised.insert("auth_events".to_owned(), names((0..3).map(unknown_id)));
    let mut many = event.clone();
    many.insert("prev_events".to_owned(), names((0..10_000).map(unknown_id)));
    let mut some = event.clone();
    some.insert("prev_events".to_owned(), names((0..20).map(unknown_id)));
    scene.network.asked.lock().clear();
    for event in [unauthorised, some] {
        let event = scene.evil.resign(event, &VERSION);
        assert_eq!(scene.evil.press(&scene.good, vec![event]).await, 0);
    }
    // Too large to be signed as an event at all: the old signature is as good as any.
    assert_eq!(scene.evil.press(&scene.good, vec![many]).await, 0);
    let asked = scene.network.asked.lock().len();
    assert!(asked < 20, "{asked} questions for three events");
    assert!(bodies(&scene.good, &scene.room, &scene.alice).await.is_empty());
    scene.check_usable().await;
}

#[tokio::test]
async fn a_past_without_end_is_not_followed_for_ever() {
    let scene = Scene::new(VERSION).await;
    let template = scene.event("there is more").await;
    let (made, keys) = (Arc::new(AtomicUsize::new(0)), scene.evil.rooms.signing_keys().current());
    let rules = VERSION.rules().unwrap();
    let count = Arc::clone(&made);
    // Whatever is asked for, there are 200 more before it, which nobody has.
    *scene.network.lies.lock() = Some(Box::new(move |endpoint, _| {
        if !matches!(endpoint, "missing_events" | "backfill") {
            return None;
        }
        let mut events = Vec::new();
        for _ in 0..200 {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let mut event = template.clone();
            for field in ["signatures", "hashes", "unsigned"] {
                event.remove(field);
            }
            event.insert("prev_events".to_owned(), names([unknown_id(number)]));
            let sign = ruma::signatures::hash_and_sign_event;
            sign("evil.example", keys.as_ref(), &mut event, &rules.redaction).unwrap();
            events.push(event);
        }
        Some(events)
    }));
    let mut event = scene.event("read me").await;
    event.insert("prev_events".to_owned(), names([unknown_id(usize::MAX / 2)]));
    let event = scene.evil.resign(event, &VERSION);
    scene.network.asked.lock().clear();
    assert_eq!(scene.evil.press(&scene.good, vec![event]).await, 0);
    let asked = scene.network.asked.lock().len();
    assert!(asked <= 20, "{asked} questions for one event");
    // Nor does whoever reads back.
    scene.network.asked.lock().clear();
    let fetched = scene.good.shared.fetch_past(&scene.room, 100).await.unwrap();
    assert_eq!(fetched, 0, "this server has the room from its beginning");
    let fetched = scene.good.shared.fetch_event_at(&scene.room, 0, false).await.unwrap();
    assert!(!fetched);
    assert!(scene.network.asked.lock().len() <= 30);
    *scene.network.lies.lock() = None;
    scene.check_usable().await;
}

#[tokio::test]
async fn who_says_two_things_at_once_says_the_same_to_all() {
    let scene = Scene::new(VERSION).await;
    let third = Home::new(&scene.network, "third.example", 3).await;
    third.join(&scene.room, &third.user("carol"), &scene.good).await.unwrap();
    let powers = json!({ "users": { "@mallory:evil.example": 50 }, "users_default": 0, "state_default": 50 });
    let raised = scene.good.set(&scene.room, &scene.alice, "m.room.power_levels", "", powers).await.unwrap();
    for home in [&scene.evil, &third] {
        scene.good.deliver(home, &scene.room, std::slice::from_ref(&raised)).await;
    }
    // Two topics upon the same event.
    let named =
        scene.evil.set(&scene.room, &scene.mallory, "m.room.topic", "", json!({ "topic": "a" })).await;
    let first = scene.evil.event(&scene.room, &named.unwrap()).await;
    let mut second = first.clone();
    let content: CanonicalJsonObject = serde_json::from_value(json!({ "topic": "b" })).unwrap();
    second.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    let second = scene.evil.resign(second, &VERSION);
    assert_eq!(scene.evil.press(&scene.good, vec![first.clone(), second.clone()]).await, 2);
    assert_eq!(scene.evil.press(&third, vec![second, first]).await, 2);
    assert_eq!(scene.good.state(&scene.room).await, third.state(&scene.room).await);
}

#[tokio::test]
async fn shut_out_names_are_shut_out_however_they_are_written() {
    let scene = Scene::new(VERSION).await;
    let list = json!({ "allow": ["*"], "deny": ["*.bad.example"], "allow_ip_literals": false });
    scene.good.set(&scene.room, &scene.alice, "m.room.server_acl", "", list).await.unwrap();
    let view = scene.good.rooms.view(&scene.room).await.unwrap();
    for name in
        ["a.bad.example", "A.Bad.EXAMPLE", "a.bad.example:8448", "a.bad.example.", "1.2.3.4", "[::1]:80"]
    {
        let name: &ruma::ServerName = name.try_into().unwrap();
        assert!(view.require_allowed(name).await.is_err(), "{name}");
    }
    assert!(view.require_allowed(scene.evil.rooms.server_name()).await.is_ok());
}

#[tokio::test]
async fn keys_that_have_expired_sign_nothing() {
    let scene = Scene::new(VERSION).await;
    let event = scene.event("too late").await;
    let evil = scene.evil.rooms.server_name().to_owned();
    scene.network.keys_end.lock().insert(evil, 1_600_000_000_000);
    assert_eq!(scene.evil.press(&scene.good, vec![event]).await, 0);
    assert!(bodies(&scene.good, &scene.room, &scene.alice).await.is_empty());
    scene.network.keys_end.lock().clear();
    scene.check_usable().await;
}

#[tokio::test]
async fn many_loose_ends_are_bounded() {
    let scene = Scene::new(VERSION).await;
    let template = scene.event("a branch").await;
    let mut taken: usize = 0;
    for number in 0..300 {
        let mut event = template.clone();
        let text = json!({ "msgtype": "m.text", "body": number.to_string() });
        let content: CanonicalJsonObject = serde_json::from_value(text).unwrap();
        event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
        taken += scene.evil.press(&scene.good, vec![scene.evil.resign(event, &VERSION)]).await;
    }
    let view = scene.good.rooms.view(&scene.room).await.unwrap();
    let ends: Vec<OwnedEventId> = view.newest_events().await.unwrap();
    assert!(ends.len() <= 100, "{} loose ends after {taken} events", ends.len());
    let said = scene.good.say(&scene.room, &scene.alice, "still here").await;
    assert!(scene.good.event(&scene.room, &said).await["prev_events"].as_array().unwrap().len() <= 20);
    scene.check_usable().await;
}
