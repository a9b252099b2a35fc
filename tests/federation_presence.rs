//! Who is here, across servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Authority, User, segment};
use serde_json::{Value, json};

fn status(user: &User) -> String {
    format!("/_matrix/client/v3/presence/{}/status", segment(&user.id))
}

/// Asks for news until somebody's presence is told as it should be. Whoever asks is not here by that.
async fn told(user: &User, since: &str, of: &User, state: &str) -> (Value, String) {
    let mut since = since.to_owned();
    for _ in 0..20 {
        let synced = user.sync(&[("since", &since), ("timeout", "5000"), ("set_presence", "offline")]).await;
        synced["next_batch"].as_str().unwrap().clone_into(&mut since);
        let events = synced["presence"]["events"].as_array().cloned().unwrap_or_default();
        let of_user = events.iter().rev().find(|event| event["sender"] == json!(of.id));
        if let Some(event) = of_user.filter(|event| event["content"]["presence"] == state) {
            return (event["content"].clone(), since);
        }
    }
    panic!("it is not told that {} is {state}", of.id);
}

async fn start(user: &User) -> String {
    user.sync(&[("set_presence", "offline")]).await["next_batch"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn users_of_servers_that_share_a_room_see_who_comes_and_goes() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let silent = authority.server(&[("ENTENTE_PRESENCE__ENABLED", "false")]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let (carol, dora) = (User::register(&one, "carol").await, User::register(&silent, "dora").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("/_matrix/client/v3/join/{}?via={}", segment(&room), segment(&one.name()));
    for user in [&bob, &dora] {
        user.post(&join, &json!({})).await.ok();
    }
    let (alices, bobs, carols) = (start(&alice).await, start(&bob).await, start(&carol).await);

    let here = json!({ "presence": "online", "status_msg": "au bureau" });
    bob.put(&status(&bob), &here).await.ok();
    let (content, alices) = told(&alice, &alices, &bob, "online").await;
    assert_eq!((&content["status_msg"], &content["currently_active"]), (&json!("au bureau"), &json!(true)));
    assert!(content["last_active_ago"].is_u64());
    let asked = alice.get(&status(&bob)).await.ok();
    assert_eq!((&asked["presence"], &asked["status_msg"]), (&json!("online"), &json!("au bureau")));
    // At the first look, too.
    let first = alice.sync(&[("set_presence", "offline")]).await;
    let first = first["presence"]["events"].as_array().cloned().unwrap_or_default();
    assert!(first.iter().any(|event| event["sender"] == json!(bob.id)), "{first:?}");

    alice.put(&status(&alice), &json!({ "presence": "unavailable" })).await.ok();
    told(&bob, &bobs, &alice, "unavailable").await;
    bob.put(&status(&bob), &json!({ "presence": "offline" })).await.ok();
    told(&alice, &alices, &bob, "offline").await;

    // Who shares no room sees nothing, and who comes into one later sees who is there.
    carol.get(&status(&bob)).await.refused(403, "M_FORBIDDEN");
    assert_eq!(carol.sync(&[("since", &carols), ("set_presence", "offline")]).await["presence"], Value::Null);
    bob.put(&status(&bob), &json!({ "presence": "online" })).await.ok();
    let (_, _) = told(&alice, &alices, &bob, "online").await;
    carol.post(&join, &json!({})).await.ok();
    told(&carol, &carols, &bob, "online").await;

    // A server that tells nobody's presence tells none to others, and keeps none of theirs.
    dora.get(&status(&bob)).await.refused(404, "M_NOT_FOUND");
    alice.get(&status(&dora)).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_hears_who_is_there() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.put(&status(&alice), &json!({ "presence": "online" })).await.ok();
    let since = start(&bob).await;
    let join = format!("/_matrix/client/v3/join/{}?via={}", segment(&room), segment(&one.name()));
    bob.post(&join, &json!({})).await.ok();
    told(&bob, &since, &alice, "online").await;
}
