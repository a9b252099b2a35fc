//! Who is here, and who sees it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Server, User, segment};
use serde_json::{Value, json};

fn status(user: &User) -> String {
    format!("/_matrix/client/v3/presence/{}/status", segment(&user.id))
}

/// The presence events of an answer, by sender.
fn seen(synced: &Value) -> serde_json::Map<String, Value> {
    let events = synced["presence"]["events"].as_array().cloned().unwrap_or_default();
    let by_sender = |event: &Value| {
        assert_eq!(event["type"], "m.presence");
        (event["sender"].as_str().unwrap().to_owned(), event["content"].clone())
    };
    events.iter().map(by_sender).collect()
}

fn next(synced: &Value) -> String {
    synced["next_batch"].as_str().unwrap().to_owned()
}

/// Asks for news until somebody's presence is told.
async fn told(user: &User, since: &str, of: &User) -> (Value, String) {
    let mut since = since.to_owned();
    for _ in 0..10 {
        let synced = user.sync(&[("since", &since), ("timeout", "30000"), ("set_presence", "offline")]).await;
        since = next(&synced);
        if let Some(content) = seen(&synced).get(&of.id) {
            return (content.clone(), since);
        }
    }
    panic!("the presence of {} was not told", of.id);
}

#[tokio::test]
async fn whoever_shares_a_room_sees_who_comes_and_goes() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let quiet = [("set_presence", "offline")];
    let since = next(&alice.sync(&quiet).await);
    let carols = next(&carol.sync(&quiet).await);

    // By asking for news, bob is here.
    bob.sync(&[]).await;
    let (content, since) = told(&alice, &since, &bob).await;
    assert_eq!((&content["presence"], &content["currently_active"]), (&json!("online"), &json!(true)));
    assert!(content["last_active_ago"].is_u64());
    assert_eq!(seen(&alice.sync(&quiet).await)[&bob.id]["presence"], "online", "at the first look, too");

    bob.put(&status(&bob), &json!({ "presence": "unavailable", "status_msg": "à table" })).await.ok();
    let (content, since) = told(&alice, &since, &bob).await;
    assert_eq!((&content["presence"], &content["status_msg"]), (&json!("unavailable"), &json!("à table")));
    let asked = alice.get(&status(&bob)).await.ok();
    assert_eq!((&asked["presence"], &asked["currently_active"]), (&json!("unavailable"), &json!(false)));
    assert_eq!(asked["status_msg"], "à table");
    bob.put(&status(&bob), &json!({ "presence": "offline" })).await.ok();
    let (content, _) = told(&alice, &since, &bob).await;
    assert_eq!((&content["presence"], &content["status_msg"]), (&json!("offline"), &Value::Null));
    assert_eq!(seen(&alice.sync(&quiet).await).get(&bob.id), None, "who is not here is not listed at first");

    // Nobody else learns of it.
    carol.get(&status(&bob)).await.refused(403, "M_FORBIDDEN");
    assert_eq!(carol.sync(&[("since", &carols)]).await["presence"], Value::Null);
}

#[tokio::test]
async fn whoever_comes_into_a_room_sees_and_is_seen() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for user in [&alice, &bob] {
        user.put(&status(user), &json!({ "presence": "online" })).await.ok();
    }
    let (alices, bobs) = (next(&alice.sync(&[]).await), next(&bob.sync(&[]).await));
    bob.join(&room).await.ok();
    assert_eq!(
        seen(&bob.sync(&[("since", &bobs), ("timeout", "10000")]).await)[&alice.id]["presence"],
        "online"
    );
    assert_eq!(
        seen(&alice.sync(&[("since", &alices), ("timeout", "10000")]).await)[&bob.id]["presence"],
        "online"
    );
    // A token from before the start of the process is as good.
    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    assert_eq!(
        seen(&alice.sync(&[("since", &alices), ("timeout", "10000")]).await)[&bob.id]["presence"],
        "online"
    );
}

#[tokio::test]
async fn a_filter_says_whose_presence_is_wanted() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    for user in [&alice, &bob] {
        user.put(&status(user), &json!({ "presence": "online" })).await.ok();
    }
    for (filter, expected) in [
        (json!({}), vec![&alice.id, &bob.id]),
        (json!({ "presence": { "types": [] } }), vec![]),
        (json!({ "presence": { "not_types": ["m.*"] } }), vec![]),
        (json!({ "presence": { "senders": [bob.id] } }), vec![&bob.id]),
        (json!({ "presence": { "not_senders": [bob.id] } }), vec![&alice.id]),
    ] {
        let synced = alice.sync(&[("filter", &filter.to_string())]).await;
        assert_eq!(seen(&synced).keys().collect::<Vec<_>>(), expected, "{filter}");
    }
    let ignored = json!({ "ignored_users": { bob.id.clone(): {} } });
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", segment(&alice.id));
    alice.put(&path, &ignored).await.ok();
    assert_eq!(seen(&alice.sync(&[]).await).keys().collect::<Vec<_>>(), [&alice.id]);
}

#[tokio::test]
async fn what_is_no_presence_is_refused() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    assert_eq!(
        alice.get(&status(&alice)).await.ok(),
        json!({ "presence": "offline", "currently_active": false })
    );
    alice.put(&status(&bob), &json!({ "presence": "online" })).await.refused(403, "M_FORBIDDEN");
    alice.put(&status(&alice), &json!({ "presence": "asleep" })).await.refused(400, "M_INVALID_PARAM");
    alice.put(&status(&alice), &json!({})).await.refused(400, "M_BAD_JSON");
    let long = json!({ "presence": "online", "status_msg": "x".repeat(1_025) });
    alice.put(&status(&alice), &long).await.refused(413, "M_TOO_LARGE");
    alice.get("/_matrix/client/v3/sync?set_presence=asleep").await.refused(400, "M_INVALID_PARAM");
    let nobody = format!("/_matrix/client/v3/presence/{}/status", segment("@nobody:localhost:8008"));
    alice.get(&nobody).await.refused(403, "M_FORBIDDEN");
    server.anonymous().get(&status(&alice)).await.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn sliding_sync_says_who_is_here_too() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let simplified = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let merged = "/_matrix/client/v4/sync";
    bob.post(&format!("{simplified}?set_presence=asleep"), &json!({})).await.refused(400, "M_INVALID_PARAM");
    bob.post(merged, &json!({ "set_presence": "asleep" })).await.refused(400, "M_INVALID_PARAM");
    let since = next(&alice.sync(&[("set_presence", "offline")]).await);
    bob.post(&format!("{simplified}?set_presence=unavailable"), &json!({})).await.ok();
    let (content, since) = told(&alice, &since, &bob).await;
    assert_eq!(content["presence"], "unavailable");
    bob.post(merged, &json!({})).await.ok();
    assert_eq!(told(&alice, &since, &bob).await.0["presence"], "online");
}

#[tokio::test]
async fn an_operator_can_switch_it_off() {
    let server =
        Server::with(&[("ENTENTE_REGISTRATION__OPEN", "true"), ("ENTENTE_PRESENCE__ENABLED", "false")]);
    let alice = User::register(&server, "alice").await;
    alice.create_room(json!({})).await;
    alice.put(&status(&alice), &json!({ "presence": "online" })).await.refused(403, "M_FORBIDDEN");
    alice.get(&status(&alice)).await.refused(404, "M_NOT_FOUND");
    assert_eq!(alice.sync(&[]).await["presence"], Value::Null);
}
