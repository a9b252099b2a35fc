//! Tokens for calls across two servers, who federate over TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_tests::{Answer, Authority, Caller, Server, Settings, User, free_port, segment};
use serde_json::{Value, json};

const CALL: &str = "m.call#ROOM";
const OF_CLIENTS: &str = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit";
const OF_SERVERS: &str = "/_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token";

/// A server that holds calls.
fn with_calls(authority: &Authority, more: Settings<'_>) -> Server {
    let port = free_port().to_string();
    let settings = [
        ("ENTENTE_CALLS__ENABLED", "true"),
        ("ENTENTE_CALLS__ADDRESSES", "[\"127.0.0.1\"]"),
        ("ENTENTE_CALLS__UDP_PORT", port.as_str()),
    ];
    authority.server(&[&settings, more].concat())
}

fn name_of(user: &User) -> &str {
    user.id.split_once(':').unwrap().1
}

async fn join_via(user: &User, room: &str, through: &User) {
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(room), segment(name_of(through)));
    user.post(&path, &json!({})).await.ok();
}

async fn openid(user: &User) -> Value {
    let path = format!("/_matrix/client/v3/user/{}/openid/request_token", segment(&user.id));
    user.post(&path, &json!({})).await.ok()
}

/// What the service of a server answers to who shows an `OpenID` token.
async fn sfu_get(server: &Server, room: &str, token: &Value) -> Answer {
    let body = json!({ "room": room, "openid_token": token, "device_id": "DEVICE" });
    server.anonymous().post("/livekit/jwt/sfu/get", &body).await
}

fn claims(answer: &Value) -> Value {
    let body = answer["jwt"].as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

async fn validate(server: &Server, answer: &Value) -> Answer {
    let path = format!("/livekit/sfu/rtc/validate?access_token={}", answer["jwt"].as_str().unwrap());
    server.anonymous().get(&path).await
}

struct Scene {
    here: Server,
    there: Server,
    alice: User,
    bob: User,
    room: String,
}

/// Alice has a room on her server, which Bob of another one is in.
async fn scene(here: Settings<'_>) -> Scene {
    let authority = Authority::new();
    let (here, there) = (with_calls(&authority, here), with_calls(&authority, &[]));
    let (alice, bob) = (User::register(&here, "alice").await, User::register(&there, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &alice).await;
    Scene { here, there, alice, bob, room }
}

#[tokio::test]
async fn a_user_of_another_server_gets_in_by_an_openid_token() {
    let Scene { here, there, alice, bob, room } = scene(&[]).await;
    let answer = sfu_get(&here, &room, &openid(&bob).await).await.ok();
    let held = claims(&answer);
    assert_eq!(held["sub"], format!("{}:DEVICE", bob.id));
    let video = &held["video"];
    assert_eq!((&video["roomJoin"], &video["canSubscribe"]), (&json!(true), &json!(true)));
    assert_eq!((&video["canPublish"], &video["canPublishData"]), (&json!(false), &json!(false)));
    assert_eq!(video["roomCreate"], Value::Null);
    // Only users of this server begin a call.
    let refused = validate(&here, &answer).await;
    assert_eq!((refused.status.as_u16(), refused.body), (404, json!("requested room does not exist")));
    let begins = sfu_get(&here, &room, &openid(&alice).await).await.ok();
    let video = claims(&begins)["video"].clone();
    assert_eq!((&video["roomCreate"], &video["canPublish"]), (&json!(true), &json!(true)));
    assert_eq!(validate(&here, &begins).await.status, 200);

    // Made-up tokens, others' servers, and those who are not in the room.
    let mut wrong = openid(&bob).await;
    wrong["access_token"] = json!("made up");
    sfu_get(&here, &room, &wrong).await.refused(401, "M_UNAUTHORIZED");
    let mut alices = openid(&alice).await;
    alices["matrix_server_name"] = json!(name_of(&bob));
    sfu_get(&here, &room, &alices).await.refused(401, "M_UNAUTHORIZED");
    alices["matrix_server_name"] = json!("nobody.example");
    sfu_get(&here, &room, &alices).await.refused(403, "M_FORBIDDEN");
    let carol = User::register(&there, "carol").await;
    sfu_get(&here, &room, &openid(&carol).await).await.refused(403, "M_FORBIDDEN");

    // Who is kicked has no use for its token.
    let body = json!({ "user_id": bob.id });
    alice.post(&User::in_room(&room, "kick"), &body).await.ok();
    assert_eq!(validate(&here, &answer).await.status, 401);
    sfu_get(&here, &room, &openid(&bob).await).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn the_operator_says_what_users_of_other_servers_may() {
    let Scene { here, bob, room, there: _there, .. } =
        scene(&[("ENTENTE_CALLS__REMOTE_USERS", "publish")]).await;
    let answer = sfu_get(&here, &room, &openid(&bob).await).await.ok();
    let video = claims(&answer)["video"].clone();
    assert_eq!((&video["canPublish"], &video["roomCreate"]), (&json!(true), &Value::Null));

    let Scene { here, bob, room, there: _there, .. } =
        scene(&[("ENTENTE_CALLS__REMOTE_USERS", "refused")]).await;
    sfu_get(&here, &room, &openid(&bob).await).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn homeservers_ask_each_other_for_tokens() {
    let Scene { here, alice, bob, room, there: _there } = scene(&[]).await;
    let path = format!("{OF_CLIENTS}/get_token");
    let transports = alice.get("/_matrix/client/v1/rtc/transports").await.ok();
    let url = transports["transports"][0]["url"].clone();
    let later = json!({
        "server_name": name_of(&alice), "url": url, "room_id": room, "slot_id": CALL, "member_id": "one",
    });
    let answer = bob.post(&path, &later).await.ok();
    assert_eq!(answer["url"], url);
    let held = claims(&answer);
    assert_eq!((&held["video"]["canPublish"], &held["video"]["roomCreate"]), (&json!(false), &Value::Null));
    // The SFU that signed it takes it; there is no call yet.
    assert_eq!(validate(&here, &answer).await.status, 404);

    // The earlier draft names the same user otherwise, and the same call.
    let earlier = json!({
        "server_name": name_of(&alice), "room_id": room, "slot_id": CALL,
        "member": { "id": "one", "claimed_device_id": "DEVICE" },
    });
    let other = claims(&bob.post(&path, &earlier).await.ok());
    assert_eq!(other["video"]["room"], held["video"]["room"]);
    assert_ne!(other["sub"], held["sub"]);

    let mut wrong = later.clone();
    wrong["url"] = json!("wss://elsewhere.example");
    bob.post(&path, &wrong).await.refused(502, "M_UNKNOWN");
    wrong = later.clone();
    wrong["server_name"] = json!("nobody.example");
    bob.post(&path, &wrong).await.refused(403, "M_FORBIDDEN");
    wrong["room_id"] = json!("!nothing:example.org");
    bob.post(&path, &wrong).await.refused(403, "M_FORBIDDEN");
    bob.post(&User::in_room(&room, "leave"), &json!({})).await.ok();
    bob.post(&path, &later).await.refused(403, "M_FORBIDDEN");
    // What is not signed by a server is nobody's.
    let anybody = Caller::new(&here.base_url, None);
    anybody.post(OF_SERVERS, &later).await.refused(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn a_leave_is_delegated_by_who_delayed_it() {
    let Scene { here, alice, bob, room, there: _there } = scene(&[]).await;
    let path = format!("state/org.matrix.msc3401.call.member/{}", segment(&alice.id));
    let delayed = format!("{path}?org.matrix.msc4140.delay=600000");
    alice.put(&User::in_room(&room, &path), &json!({ "here": true })).await.ok();
    let delay_id = alice.put(&User::in_room(&room, &delayed), &json!({})).await.ok()["delay_id"].clone();
    let delegate = format!("{OF_CLIENTS}/delegate_delayed_leave");
    let body = json!({
        "room_id": room, "slot_id": CALL, "member_id": "one", "delay_id": delay_id, "delay_timeout": 1_000,
    });
    // Clients ask with nothing whether there is such a thing: anything but 404 says so.
    alice.post(&delegate, &json!({})).await.refused(400, "M_BAD_JSON");
    let other = alice.create_room(json!({})).await;
    let mut wrong = body.clone();
    wrong["room_id"] = json!(other);
    alice.post(&delegate, &wrong).await.refused(400, "M_INVALID_PARAM");
    let token = openid(&bob).await;
    let of_service = json!({
        "room_id": room, "slot_id": CALL, "openid_token": token, "delay_id": delay_id,
        "member": { "id": "one", "claimed_user_id": bob.id, "claimed_device_id": "DEVICE" },
    });
    let anybody = here.anonymous();
    let service = "/livekit/jwt/delegate_delayed_leave";
    anybody.post(service, &of_service).await.refused(403, "M_FORBIDDEN");

    // Nobody comes in time.
    alice.post(&delegate, &body).await.ok();
    let sent = tokio::time::timeout(entente_tests::SOON, async {
        while alice.state(&room, "org.matrix.msc3401.call.member", &alice.id).await.body != json!({}) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    sent.await.expect("the leave is not sent");
}
