//! Inviting by e-mail address, with an identity server that is none.

use std::time::Duration;

use entente_tests::{Answer, Authority, Key, SOON, Server, Service, User};
use reqwest::Method;
use serde_json::{Value, json};

/// What the stand-in calls itself.
const NAME: &str = "id.example";
const TOKEN: &str = "the-token-of-the-invite";

/// A stand-in for an identity server, of which `bound@x.example` is a user.
fn identity_server(key: &Key, bound: &str) -> Service {
    let service = Service::start();
    service.answer_with("/hash_details", |_| {
        (200, json!({ "algorithms": ["none", "sha256"], "lookup_pepper": "pepper" }))
    });
    let bound = bound.to_owned();
    service.answer_with("/lookup", move |request| {
        // "bound@x.example email pepper".
        let known = "swbO3hxSXDa7Otij2rHJzXy49Jy3Diy-n2KhPPeoiP8";
        let is_known = request.body["addresses"] == json!([known]);
        let mappings = if is_known { json!({ known: bound }) } else { json!({}) };
        (200, json!({ "mappings": mappings }))
    });
    let public = key.public();
    let answer = json!({
        "token": TOKEN, "display_name": "n...@x.example",
        "public_keys": [{ "public_key": public, "key_validity_url": "http://id.example/isvalid" }],
    });
    service.answer_with("/store-invite", move |_| (200, answer.clone()));
    service.answer_with("/pubkey/ed25519:0", move |_| (200, json!({ "public_key": public })));
    service
}

fn settings(service: &Service) -> String {
    format!("[{{ name = \"{NAME}\", url = \"{}\" }}]", service.url())
}

fn invite(server: &str, address: &str) -> Value {
    json!({ "id_server": server, "id_access_token": "from-the-client", "medium": "email", "address": address })
}

/// What an identity server sends when an address becomes a user's.
fn bound(key: &Key, user: &User, room: &str, sender: &User) -> Value {
    let mut signed = json!({ "mxid": user.id, "sender": sender.id, "token": TOKEN });
    signed["signatures"] = json!({ NAME: { "ed25519:0": key.signature(&signed) } });
    json!({
        "address": "new@x.example", "medium": "email", "mxid": user.id,
        "invites": [{
            "address": "new@x.example", "medium": "email", "mxid": user.id,
            "room_id": room, "sender": sender.id, "signed": signed,
        }],
    })
}

async fn tell(authority: &Authority, server: &Server, body: &Value) -> Answer {
    let url = format!("https://{}/_matrix/federation/v1/3pid/onbind", server.name());
    Answer::to(authority.client().request(Method::PUT, url).json(body)).await
}

async fn is_invited(user: &User, room: &str) {
    let invited = tokio::time::timeout(SOON, async {
        while user.sync(&[("timeout", "0")]).await["rooms"]["invite"].get(room).is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    invited.await.unwrap_or_else(|_| panic!("{} is not invited", user.id));
}

#[tokio::test]
async fn an_address_is_invited_and_turns_out_to_be_somebody_elsewhere() {
    let authority = Authority::new();
    let key = Key::generate();
    let other = authority.server(&[]);
    let carol = User::register(&other, "carol").await;
    let service = identity_server(&key, &carol.id);
    let named = settings(&service);
    let one = authority.server(&[("ENTENTE_IDENTITY_SERVERS", named.as_str())]);
    let home_of_bob = authority.server(&[("ENTENTE_IDENTITY_SERVERS", named.as_str())]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&home_of_bob, "bob").await);
    let room = alice.create_room(json!({ "name": "Conseil", "preset": "private_chat" })).await;
    let path = User::in_room(&room, "invite");

    // Whoever has an address already is invited at once.
    alice.post(&path, &invite(NAME, "Bound@x.example")).await.ok();
    is_invited(&carol, &room).await;
    assert!(service.requests().iter().all(|request| request.token == "from-the-client"));
    assert!(service.requests().iter().all(|request| !request.line.contains("store-invite")));

    // For nobody's address an invite is kept, and the room says so.
    alice.post(&path, &invite(NAME, "new@x.example")).await.ok();
    let requests = service.requests();
    let stored = requests.iter().find(|request| request.line.contains("/store-invite")).unwrap();
    assert_eq!(
        (&stored.body["address"], &stored.body["room_name"]),
        (&json!("new@x.example"), &json!("Conseil"))
    );
    assert_eq!((&stored.body["sender"], &stored.body["room_id"]), (&json!(alice.id), &json!(room)));
    let event = alice.state(&room, "m.room.third_party_invite", TOKEN).await.ok();
    assert_eq!(
        (&event["display_name"], &event["public_key"]),
        (&json!("n...@x.example"), &json!(key.public()))
    );

    // It turns out to be Bob's, whose server has Alice's invite him.
    let proof = bound(&key, &bob, &room, &alice);
    let mut forged = proof.clone();
    forged["invites"][0]["signed"]["signatures"][NAME]["ed25519:0"] =
        json!(Key::generate().signature(&proof["invites"][0]["signed"]));
    tell(&authority, &home_of_bob, &forged).await.refused(400, "M_INVALID_PARAM");
    tell(&authority, &home_of_bob, &proof).await.ok();
    is_invited(&bob, &room).await;
    let member = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!(member["membership"], "invite");
    assert_eq!(member["third_party_invite"]["display_name"], "n...@x.example");
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn an_address_turns_out_to_be_somebody_here() {
    let authority = Authority::new();
    let key = Key::generate();
    let service = identity_server(&key, "@nobody:x.example");
    let named = settings(&service);
    let one = authority.server(&[("ENTENTE_IDENTITY_SERVERS", named.as_str())]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&one, "bob").await);
    // The invites with which a room begins may be for addresses, too.
    let begun = json!({ "preset": "private_chat", "invite_3pid": [invite(NAME, "new@x.example")] });
    let room = alice.create_room(begun).await;
    alice.state(&room, "m.room.third_party_invite", TOKEN).await.ok();
    tell(&authority, &one, &bound(&key, &bob, &room, &alice)).await.ok();
    is_invited(&bob, &room).await;
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn only_identity_servers_that_the_operator_names_are_asked() {
    let authority = Authority::new();
    let key = Key::generate();
    let service = identity_server(&key, "@nobody:x.example");
    let named = settings(&service);
    let one = authority.server(&[("ENTENTE_IDENTITY_SERVERS", named.as_str())]);
    let without = authority.server(&[]);
    let (alice, dora) = (User::register(&one, "alice").await, User::register(&without, "dora").await);
    let bob = User::register(&one, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = User::in_room(&room, "invite");
    for other in ["other.example", "127.0.0.1", "", "id.example:443"] {
        alice.post(&path, &invite(other, "new@x.example")).await.refused(403, "M_SERVER_NOT_TRUSTED");
    }
    let doras = dora.create_room(json!({})).await;
    let refused = dora.post(&User::in_room(&doras, "invite"), &invite(NAME, "new@x.example")).await;
    refused.refused(403, "M_SERVER_NOT_TRUSTED");
    tell(&authority, &without, &bound(&key, &dora, &doras, &dora)).await.refused(403, "M_SERVER_NOT_TRUSTED");
    // Who may not invite, or is not in the room, makes it ask nobody either.
    let levels = json!({ "invite": 50 });
    alice.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    bob.post(&path, &invite(NAME, "new@x.example")).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.post(&path, &invite(NAME, "new@x.example")).await.refused(403, "M_FORBIDDEN");
    assert_eq!(service.requests().len(), 0, "{:?}", service.requests());
}
