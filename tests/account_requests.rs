//! What belongs to an account beside logging in: tags of rooms, contact information, where one was seen, calls' relays.

use entente_tests::{Server, User, segment};
use serde_json::{Value, json};

fn tags(user: &User, room: &str) -> String {
    format!("/_matrix/client/v3/user/{}/rooms/{}/tags", segment(&user.id), segment(room))
}

#[tokio::test]
async fn tags_come_and_go_one_by_one() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({})).await;
    let path = tags(&alice, &room);
    let of = |tag: &str| format!("{path}/{}", segment(tag));
    assert_eq!(alice.get(&path).await.ok(), json!({ "tags": {} }));
    let since = alice.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();
    let favourite = json!({ "order": 0.25, "org.example.note": "à lire" });
    assert_eq!(alice.put(&of("m.favourite"), &favourite).await.ok(), json!({}));
    alice.put(&of("u.à côté/ici"), &json!({})).await.ok();
    let expected = json!({ "tags": { "m.favourite": favourite, "u.à côté/ici": {} } });
    assert_eq!(alice.get(&path).await.ok(), expected);
    let synced = alice.sync(&[("since", &since), ("timeout", "10000")]).await;
    let told = &synced["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(told, &json!([{ "type": "m.tag", "content": expected }]));

    // Many clients of a user at once lose none of each other's.
    let at_once: Vec<_> = (0..20)
        .map(|number| {
            let (alice, path) = (alice.clone(), of(&format!("u.{number}")));
            tokio::spawn(async move { alice.put(&path, &json!({ "order": 0.5 })).await.ok() })
        })
        .collect();
    for put in at_once {
        put.await.unwrap();
    }
    assert_eq!(alice.get(&path).await.ok()["tags"].as_object().unwrap().len(), 22);
    let since = alice.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        alice.delete(&of("u.3"), &json!({})).await.ok();
    }
    assert_eq!(alice.get(&path).await.ok()["tags"].as_object().unwrap().len(), 21);
    alice.put(&of("u.4"), &json!({ "order": 0.5 })).await.ok();
    let synced = alice.sync(&[("since", &since), ("timeout", "10000")]).await;
    let next = synced["next_batch"].as_str().unwrap();
    assert_eq!(
        alice.sync(&[("since", next)]).await["rooms"],
        Value::Null,
        "what changes nothing tells nothing"
    );

    bob.get(&path).await.refused(403, "M_FORBIDDEN");
    bob.put(&of("m.favourite"), &json!({})).await.refused(403, "M_FORBIDDEN");
    alice.put(&of(&"x".repeat(256)), &json!({})).await.refused(400, "M_INVALID_PARAM");
    alice.put(&of("u.x"), &json!({ "order": "first" })).await.refused(400, "M_BAD_JSON");
    alice.put(&of("u.x"), &json!([])).await.refused(400, "M_BAD_JSON");
    server.anonymous().get(&path).await.refused(401, "M_MISSING_TOKEN");
    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    assert_eq!(alice.get(&path).await.ok()["tags"]["m.favourite"], favourite);
}

#[tokio::test]
async fn there_are_no_addresses_and_every_endpoint_says_so() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let base = "/_matrix/client/v3";
    let own = format!("{base}/account/3pid");
    assert_eq!(alice.get(&own).await.ok(), json!({ "threepids": [] }));
    let credentials =
        json!({ "client_secret": "secret", "sid": "1", "id_server": "x.example", "id_access_token": "t" });
    alice.post(&own, &json!({ "three_pid_creds": credentials })).await.refused(403, "M_THREEPID_DENIED");
    alice.post(&format!("{own}/add"), &credentials).await.refused(403, "M_THREEPID_DENIED");
    alice.post(&format!("{own}/bind"), &credentials).await.refused(403, "M_SERVER_NOT_TRUSTED");
    let address = json!({ "medium": "email", "address": "alice@example.org" });
    for what in ["delete", "unbind"] {
        alice.post(&format!("{own}/{what}"), &address).await.refused(404, "M_THREEPID_NOT_FOUND");
    }
    let email = json!({ "client_secret": "secret", "email": "alice@example.org", "send_attempt": 1 });
    let telephone = json!({ "client_secret": "secret", "country": "FR", "phone_number": "0123456789", "send_attempt": 1 });
    for family in ["account/3pid", "account/password", "register"] {
        for (medium, body) in [("email", &email), ("msisdn", &telephone)] {
            let path = format!("{base}/{family}/{medium}/requestToken");
            server.anonymous().post(&path, body).await.refused(403, "M_THREEPID_DENIED");
        }
    }
    server.anonymous().get(&own).await.refused(401, "M_MISSING_TOKEN");
    server.anonymous().post(&own, &json!({})).await.refused(401, "M_MISSING_TOKEN");
    let capabilities = alice.get(&format!("{base}/capabilities")).await.ok();
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"]["enabled"], false);
    alice.get(&format!("{base}/voip/turnServer")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn users_learn_where_they_were_seen_and_administrators_where_others() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let path = format!("/_matrix/client/v3/admin/whois/{}", segment(&alice.id));
    let seen = alice.get(&path).await.ok();
    assert_eq!(seen["user_id"], json!(alice.id));
    let connection = &seen["devices"][&alice.device_id]["sessions"][0]["connections"][0];
    assert_eq!(connection["ip"], "127.0.0.1", "{seen}");
    assert!(connection["last_seen"].as_u64().unwrap() > 1_600_000_000_000);
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
    let mut body = json!({ "username": "guardian", "password": "correct horse battery staple" });
    body["auth"] = json!({ "type": "m.login.registration_token", "token": server.first_token().unwrap() });
    let first = server.anonymous().post("/_matrix/client/v3/register", &body).await;
    body["auth"] = json!({ "type": "m.login.dummy", "session": first.body["session"] });
    let answer = server.anonymous().post("/_matrix/client/v3/register", &body).await.ok();
    let admin = server.caller(answer["access_token"].as_str().unwrap());
    assert_eq!(admin.get(&path).await.ok()["user_id"], json!(alice.id));
}
