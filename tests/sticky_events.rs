//! Sticky events: everybody in the room is given them for a while, however far back they lie, and whichever server they are of.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use entente_tests::{Answer, Authority, SOON, Server, User, fresh_id, segment};
use serde_json::{Value, json};

const TYPE: &str = "org.matrix.msc4143.rtc.member";

async fn stick(user: &User, room: &str, ms: u64, content: Value) -> Answer {
    let path = format!("send/{TYPE}/{}?org.matrix.msc4354.sticky_duration_ms={ms}", fresh_id());
    user.put(&User::in_room(room, &path), &content).await
}

fn sticky<'a>(synced: &'a Value, room: &str) -> Vec<&'a Value> {
    let events = synced["rooms"]["join"][room]["msc4354_sticky"]["events"].as_array();
    events.map(|events| events.iter().collect()).unwrap_or_default()
}

async fn flood(user: &User, room: &str) {
    for number in 0..25 {
        user.say(room, &format!("{number}")).await;
    }
}

#[tokio::test]
async fn what_sticks_is_given_although_the_timeline_is_full() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let versions = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4354"], true);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let since = bob.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();
    let sent = stick(&alice, &room, 600_000, json!({ "n": 1 })).await.ok()["event_id"].clone();
    // In the timeline it comes as any other.
    let near = bob.sync(&[("since", &since)]).await;
    let timeline = near["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap();
    let event = timeline.iter().find(|event| event["event_id"] == sent).unwrap();
    assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": 600_000 }));
    let left = event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64().unwrap();
    assert!((500_000..=600_000).contains(&left), "{left}");
    assert_eq!(sticky(&near, &room), Vec::<&Value>::new());

    flood(&alice, &room).await;
    let far = bob.sync(&[("since", &since)]).await;
    assert_eq!(sticky(&far, &room).iter().map(|event| &event["event_id"]).collect::<Vec<_>>(), [&sent]);
    // Once: who has it is not told again.
    let next = far["next_batch"].as_str().unwrap().to_owned();
    alice.say(&room, "more").await;
    assert_eq!(sticky(&bob.sync(&[("since", &next)]).await, &room).len(), 0);
    // And whoever comes later is told, too.
    let carol = User::register(&server, "carol").await;
    carol.join(&room).await.ok();
    flood(&alice, &room).await;
    assert_eq!(sticky(&carol.sync(&[]).await, &room).len(), 1);

    // Sliding sync has it as an extension.
    let body = json!({
        "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] } },
        "extensions": { "org.matrix.msc4354.sticky_events": { "enabled": true } },
    });
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let slid = bob.post(path, &body).await.ok();
    let extension = &slid["extensions"]["org.matrix.msc4354.sticky_events"];
    assert_eq!(extension["rooms"][&room]["events"][0]["event_id"], sent, "{extension}");
    assert!(extension["next_batch"].is_string());

    // What was redacted sticks no more.
    let redact = format!("redact/{}/{}", segment(sent.as_str().unwrap()), fresh_id());
    alice.put(&User::in_room(&room, &redact), &json!({})).await.ok();
    assert_eq!(sticky(&carol.sync(&[]).await, &room).len(), 0);
}

#[tokio::test]
async fn nothing_sticks_for_ever() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    stick(&alice, &room, 3_600_001, json!({})).await.refused(400, "M_INVALID_PARAM");
    let path = format!("send/{TYPE}/1?org.matrix.msc4354.sticky_duration_ms=long");
    alice.put(&User::in_room(&room, &path), &json!({})).await.refused(400, "M_INVALID_PARAM");
    stick(&alice, &room, 2_500, json!({})).await.ok();
    stick(&alice, &room, 3_600_000, json!({})).await.ok();
    // A delayed one sticks from when it is sent.
    let path = format!(
        "send/{TYPE}/later?org.matrix.msc4354.sticky_duration_ms=600000&org.matrix.msc4140.delay=100"
    );
    alice.put(&User::in_room(&room, &path), &json!({ "later": true })).await.ok();
    soon("the delayed event", async || {
        let page = alice.get(&User::in_room(&room, "messages?dir=b&limit=1")).await.ok();
        (page["chunk"][0]["content"]["later"] == true).then_some(())
    })
    .await;
    flood(&alice, &room).await;
    let server = server.crash_and_restart();
    let bob = bob.at(&server);
    let lapsed = tokio::time::timeout(SOON, async {
        loop {
            let synced = bob.sync(&[]).await;
            let sticky = sticky(&synced, &room);
            assert!(sticky.iter().any(|event| event["content"]["later"] == true), "{sticky:?}");
            if sticky.len() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    lapsed.await.expect("it sticks for ever");
}

/// Waits until something is so.
async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(3 * SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} does not happen"))
}

/// Joins a room of another server.
async fn join_via(user: &User, room: &str, other: &User) {
    let server = segment(other.id.split_once(':').unwrap().1);
    let path = format!("/_matrix/client/v3/join/{}?via={server}", segment(room));
    user.post(&path, &json!({})).await.ok();
}

/// Whether a user is given an event as sticky, wherever in the answer.
async fn is_given(user: &User, room: &str, event_id: &str) -> bool {
    let synced = user.sync(&[]).await;
    let timeline =
        synced["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    let mut events = timeline.iter().chain(sticky(&synced, room));
    let event = events.find(|event| event["event_id"] == event_id);
    event.is_some_and(|event| event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64() > Some(0))
}

#[tokio::test]
async fn a_server_that_comes_later_is_given_what_sticks() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let carol = User::register(&other, "carol").await;
    for visibility in ["shared", "joined"] {
        let room = alice
            .create_room(json!({
                "preset": "public_chat",
                "initial_state": [{
                    "type": "m.room.history_visibility",
                    "content": { "history_visibility": visibility },
                }],
            }))
            .await;
        alice.say(&room, "before").await;
        let sent = stick(&alice, &room, 600_000, json!({ "n": 1 })).await.ok();
        let event_id = sent["event_id"].as_str().unwrap();
        let lapsed = stick(&alice, &room, 1, json!({ "n": 2 })).await.ok()["event_id"].clone();
        flood(&alice, &room).await;
        join_via(&bob, &room, &alice).await;
        let what = format!("bob is given what sticks in a {visibility} room");
        soon(&what, async || is_given(&bob, &room, event_id).await.then_some(())).await;
        // What was said between is no news.
        let synced = bob.sync(&[]).await;
        let timeline = synced["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap();
        assert!(timeline.iter().all(|event| event["type"] != "m.room.message"), "{timeline:?}");
        assert!(!is_given(&bob, &room, lapsed.as_str().unwrap()).await);
        // Nor is it asked of anybody again.
        join_via(&carol, &room, &alice).await;
        assert!(is_given(&carol, &room, event_id).await);
        // And the other way round, as it happens.
        let sent = stick(&bob, &room, 600_000, json!({ "n": 3 })).await.ok();
        let event_id = sent["event_id"].as_str().unwrap();
        soon("alice is given it", async || is_given(&alice, &room, event_id).await.then_some(())).await;
    }
}

#[tokio::test]
async fn what_was_not_allowed_sticks_once_it_is() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = bob.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&alice, &room, &bob).await;
    let levels = bob.state(&room, "m.room.power_levels", "").await.ok();
    // While her server is away she loses the right to speak. When it is back the other one is away, and cannot tell it so.
    let one = one.crash();
    let mut none = levels.clone();
    none["events_default"] = json!(50);
    none["events"][TYPE] = json!(50);
    bob.set_state(&room, "m.room.power_levels", "", none).await.ok();
    let other = other.crash();
    let one = one.restart();
    let alice = alice.at(&one);
    let sent = stick(&alice, &room, 600_000, json!({})).await.ok();
    let other = other.restart();
    let bob = bob.at(&other);
    let event_id = sent["event_id"].as_str().unwrap();
    // What comes behind it is there, and it is not.
    let name = format!("/_matrix/client/v3/profile/{}/displayname", segment(&alice.id));
    alice.put(&name, &json!({ "displayname": "Alice" })).await.ok();
    soon("bob hears of her name", async || {
        let member = bob.state(&room, "m.room.member", &alice.id).await.ok();
        (member["displayname"] == "Alice").then_some(())
    })
    .await;
    assert!(!is_given(&bob, &room, event_id).await);
    bob.event(&room, event_id).await.refused(404, "M_NOT_FOUND");
    let since = bob.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();
    bob.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    assert!(is_given(&bob, &room, event_id).await);
    let next = bob.sync(&[("since", &since)]).await;
    assert_eq!(sticky(&next, &room).len(), 1, "it is told of as new: {next}");
    bob.event(&room, event_id).await.ok();
}
