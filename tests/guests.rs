//! Guests: who they are, what they may do, and where they are let in.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, SOON, Server, User, segment};
use serde_json::{Value, json};

const REGISTER: &str = "/_matrix/client/v3/register?kind=guest";

async fn guest(server: &Server) -> (Caller, String) {
    let anybody = Caller::new(&server.base_url, None);
    let registered = anybody.post(REGISTER, &json!({})).await.ok();
    let text = |field: &str| registered[field].as_str().unwrap().to_owned();
    (Caller::new(&server.base_url, Some(&text("access_token"))), text("user_id"))
}

async fn open_room(alice: &User, guest_access: &str) -> String {
    let access = json!({ "type": "m.room.guest_access", "content": { "guest_access": guest_access } });
    alice.create_room(json!({ "preset": "public_chat", "initial_state": [access] })).await
}

#[tokio::test]
async fn guests_talk_where_they_are_let_in() {
    let server =
        Server::with(&[("ENTENTE_REGISTRATION__OPEN", "true"), ("ENTENTE_REGISTRATION__GUESTS", "true")]);
    let alice = User::register(&server, "alice").await;
    let (guest, guest_id) = guest(&server).await;
    assert_eq!(guest.get("/_matrix/client/v3/account/whoami").await.ok()["is_guest"], true);
    let (open, closed) = (open_room(&alice, "can_join").await, open_room(&alice, "forbidden").await);
    let join = |room: &str| format!("/_matrix/client/v3/join/{}", segment(room));
    guest.post(&join(&closed), &json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest
        .post(&join("!nowhere:elsewhere.example"), &json!({}))
        .await
        .refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.post(&join(&open), &json!({})).await.ok();
    let path = User::in_room(&open, "send/m.room.message/1");
    guest.put(&path, &json!({ "msgtype": "m.text", "body": "bonjour" })).await.ok();
    let sync = guest.get("/_matrix/client/v3/sync").await.ok();
    let timeline = sync["rooms"]["join"][&open]["timeline"]["events"].as_array().unwrap().clone();
    assert!(timeline.iter().any(|event| event["content"]["body"] == "bonjour"));

    for (path, body) in [
        ("/_matrix/client/v3/createRoom", json!({})),
        ("/_matrix/client/v3/account/deactivate", json!({})),
        (&User::in_room(&open, "invite"), json!({ "user_id": alice.id })),
    ] {
        guest.post(path, &body).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    // Nor by the way of state, now or later: coming in where they are not let in, and bringing others.
    let member =
        |room: &str, who: &str| User::in_room(room, &format!("state/m.room.member/{}", segment(who)));
    let other = User::register(&server, "other").await;
    let (join, invite) = (json!({ "membership": "join" }), json!({ "membership": "invite" }));
    let delay = "org.matrix.msc4140.delay=60000";
    for (path, content) in [
        (member(&closed, &guest_id), &join),
        (member(&open, &other.id), &invite),
        (format!("{}?{delay}", member(&open, &guest_id)), &join),
        (format!("{}?{delay}", member(&open, &other.id)), &invite),
    ] {
        guest.put(&path, content).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    let path = format!(
        "/_matrix/client/unstable/org.matrix.msc4140/rooms/{}/delayed_event/m.room.member/1",
        segment(&open)
    );
    let later = json!({ "delay": 60_000, "state_key": guest_id, "content": join });
    guest.put(&path, &later).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let renamed = json!({ "membership": "join", "displayname": "Visitor" });
    guest.put(&member(&open, &guest_id), &renamed).await.ok();
    guest.put(&member(&open, &guest_id), &json!({ "membership": "leave" })).await.ok();
    guest.put(&member(&open, &guest_id), &join).await.ok();

    // The door closes.
    alice.set_state(&open, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await.ok();
    let sent_away = tokio::time::timeout(SOON, async {
        while alice.state(&open, "m.room.member", &guest_id).await.ok()["membership"] != "leave" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    sent_away.await.expect("the guest is still in the room");
    let alice_there: Value = alice.state(&open, "m.room.member", &alice.id).await.ok();
    assert_eq!(alice_there["membership"], "join");
}
