//! Whom invites reach, and whom they do not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Server, User, segment};
use serde_json::{Value, json};

async fn set_account_data(user: &User, event_type: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/{event_type}", segment(&user.id));
    user.put(&path, &content).await.ok();
}

/// How many rooms a user sees themselves invited to, in both forms of sync.
async fn seen(user: &User) -> (usize, u64) {
    let invited = user.sync(&[]).await["rooms"]["invite"].as_object().map_or(0, serde_json::Map::len);
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] });
    let body = json!({ "conn_id": entente_tests::fresh_id(), "lists": { "all": list } });
    let sliding = user.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", &body).await.ok();
    (invited, sliding["lists"]["all"]["count"].as_u64().unwrap())
}

#[tokio::test]
async fn who_wants_no_invites_gets_none() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let versions = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4380"], true);
    let room = alice.create_room(json!({})).await;
    let earlier = alice.create_room(json!({ "invite": [bob.id] })).await;
    assert_eq!(seen(&bob).await, (1, 1));

    for (event_type, blocking, allowing) in [
        ("m.invite_permission_config", json!({ "default_action": "block" }), json!({ "default_action": 3 })),
        ("org.matrix.msc4380.invite_permission_config", json!({ "block_all": true }), json!({})),
    ] {
        set_account_data(&bob, event_type, blocking).await;
        assert_eq!(seen(&bob).await, (0, 0), "{event_type}: what came before is not shown");
        let invite = json!({ "membership": "invite" });
        alice.invite(&room, &bob).await.refused(403, "M_INVITE_BLOCKED");
        alice
            .set_state(&room, "m.room.member", &bob.id, invite.clone())
            .await
            .refused(403, "M_INVITE_BLOCKED");
        let rooms = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
        let initial = json!([{ "type": "m.room.member", "state_key": bob.id, "content": invite }]);
        for body in [json!({ "invite": [bob.id] }), json!({ "initial_state": initial })] {
            alice.post("/_matrix/client/v3/createRoom", &body).await.refused(403, "M_INVITE_BLOCKED");
        }
        let unchanged = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert_eq!(unchanged, rooms, "a refused room was not made");
        let state = alice.state(&earlier, "m.room.member", &bob.id).await.ok();
        assert_eq!(state["membership"], "invite", "other endpoints show it");
        // They still join by themselves, and the others' other doings with them are not invites.
        alice.membership(&room, "ban", json!({ "user_id": bob.id })).await.ok();
        alice.membership(&room, "unban", json!({ "user_id": bob.id })).await.ok();
        set_account_data(&bob, event_type, allowing).await;
        assert_eq!(seen(&bob).await, (1, 1));
    }
    alice.invite(&room, &bob).await.ok();
    assert_eq!(seen(&bob).await, (2, 2));
}
