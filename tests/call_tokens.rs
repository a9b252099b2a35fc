//! Tokens for calls across two servers, who federate over TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests read the time")]

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_tests::{
    Answer, Authority, Caller, Peer, PeerAnswer, PeerRoom, SOON, Server, Settings, User, free_port, segment,
};
use reqwest::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const CALL: &str = "m.call#ROOM";
const OF_CLIENTS: &str = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit";
const OF_SERVERS: &str = "/_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token";
/// A server looks so often at everybody in its calls, from its start on, whatever it hears.
const LOOKS_EVERY: Duration = Duration::from_secs(3);

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
    /// When the second server had started, and the first shortly before.
    started: Instant,
}

/// Alice has a room on her server, which Bob of another one is in.
async fn scene(here: Settings<'_>) -> Scene {
    let authority = Authority::new();
    let (here, there) = (with_calls(&authority, here), with_calls(&authority, &[]));
    let started = Instant::now();
    let (alice, bob) = (User::register(&here, "alice").await, User::register(&there, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &alice).await;
    Scene { here, there, alice, bob, room, started }
}

#[tokio::test]
async fn a_user_of_another_server_gets_in_by_an_openid_token() {
    let Scene { here, there, alice, bob, room, .. } = scene(&[]).await;
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
    let Scene { here, alice, bob, room, there: _there, .. } = scene(&[]).await;
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
async fn a_server_without_calls_asks_those_that_have_them() {
    let authority = Authority::new();
    let (here, there) = (with_calls(&authority, &[]), authority.server(&[]));
    let (alice, bob) = (User::register(&here, "alice").await, User::register(&there, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &alice).await;
    let mut body =
        json!({ "server_name": name_of(&alice), "room_id": room, "slot_id": CALL, "member_id": "one" });
    for path in [format!("{OF_CLIENTS}/get_token"), "/_matrix/client/v1/rtc/livekit/get_token".to_owned()] {
        let answer = bob.post(&path, &body).await.ok();
        // The SFU that signed it takes it; there is no call yet.
        assert_eq!(validate(&here, &answer).await.status, 404);
    }
    body["server_name"] = json!(name_of(&bob));
    bob.post(&format!("{OF_CLIENTS}/get_token"), &body).await.refused(404, "M_UNRECOGNIZED");
    bob.post(&format!("{OF_CLIENTS}/delegate_delayed_leave"), &body).await.refused(404, "M_UNRECOGNIZED");
}

/// A server of ours is the `LiveKit` server of another.
#[tokio::test]
async fn rooms_at_a_livekit_server_are_made_and_who_leaves_is_thrown_out_of_them() {
    let (port, secret) = (free_port().to_string(), "a secret of this test, long enough");
    let sfu = Server::with(&[
        ("ENTENTE_CALLS__ENABLED", "true"),
        ("ENTENTE_CALLS__ADDRESSES", "[\"127.0.0.1\"]"),
        ("ENTENTE_CALLS__UDP_PORT", &port),
        ("ENTENTE_CALLS__API_SECRET", secret),
    ]);
    let url = format!("{}/livekit/sfu", sfu.base_url.replacen("http", "ws", 1));
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_CALLS__ENABLED", "true"),
        ("ENTENTE_CALLS__SFU", "livekit"),
        ("ENTENTE_CALLS__LIVEKIT_URL", &url),
        ("ENTENTE_CALLS__API_SECRET", secret),
    ]);
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let answer = sfu_get(&server, &room, &openid(&bob).await).await.ok();
    assert_eq!(answer["url"], url);
    let held = claims(&answer);
    assert_eq!((&held["video"]["roomCreate"], &held["owner"]), (&Value::Null, &Value::Null));
    assert_eq!(validate(&sfu, &answer).await.status, 200, "there is a room for it");

    let mut joined = join_call(&sfu, &answer).await;
    alice.membership(&room, "kick", json!({ "user_id": bob.id })).await.ok();
    // The connection ends when he is thrown out.
    let mut rest = Vec::new();
    let thrown_out = tokio::time::timeout(entente_tests::SOON, joined.read_to_end(&mut rest)).await;
    thrown_out.expect("he is still in the call").unwrap();
    sfu_get(&server, &room, &openid(&bob).await).await.refused(403, "M_FORBIDDEN");
}

/// Joins a call by a WebSocket that says nothing.
async fn join_call(sfu: &Server, answer: &Value) -> TcpStream {
    let address = sfu.base_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let token = answer["jwt"].as_str().unwrap();
    let request = format!(
        "GET /livekit/sfu/rtc?access_token={token} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    stream
}

/// Waits until a server that started then has just looked at everybody: if it throws somebody out before it looks again, it heard why.
async fn just_looked(started: Instant) {
    let mut looks_at = started;
    while looks_at <= Instant::now() {
        looks_at += LOOKS_EVERY;
    }
    tokio::time::sleep_until((looks_at + LOOKS_EVERY / 10).into()).await;
}

/// Waits until a connection to a call is ended by the server, for less time than passes from one look at everybody to the next.
async fn thrown_out(mut connection: TcpStream) {
    let mut rest = Vec::new();
    let ended = timeout(LOOKS_EVERY * 5 / 6, connection.read_to_end(&mut rest)).await;
    ended.expect("who was removed is still in the call").unwrap();
}

/// Checks that a connection to a call is not ended as well.
async fn stays(mut connection: TcpStream) {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_millis(300), connection.read_to_end(&mut rest)).await;
    assert!(ended.is_err(), "who was not removed is out of the call, too");
}

/// Waits until a user sees a membership in a room.
async fn until_membership(reader: &User, room: &str, user_id: &str, membership: &str) {
    let seen = timeout(SOON, async {
        while reader.state(room, "m.room.member", user_id).await.body["membership"] != membership {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await.expect("the membership does not become that");
}

#[tokio::test]
async fn who_is_kicked_elsewhere_is_out_of_calls_before_all_are_looked_at() {
    let Scene { here, there, alice, bob, room, started } = scene(&[]).await;
    let carol = User::register(&there, "carol").await;
    join_via(&carol, &room, &alice).await;
    let mut powers = alice.state(&room, "m.room.power_levels", "").await.ok();
    powers["users"] = json!({ carol.id.clone(): 50 });
    powers["events"]["org.matrix.msc3401.call.member"] = json!(0);
    alice.set_state(&room, "m.room.power_levels", "", powers.clone()).await.ok();
    let has_powers = timeout(SOON, async {
        while carol.state(&room, "m.room.power_levels", "").await.body != powers {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    has_powers.await.expect("the power to kick does not arrive");

    // Bob is in the call on both servers: he sends by his own and receives by the other.
    let begun = sfu_get(&here, &room, &openid(&alice).await).await.ok();
    let alices = join_call(&here, &begun).await;
    let received = sfu_get(&here, &room, &openid(&bob).await).await.ok();
    let received = join_call(&here, &received).await;
    let sent = sfu_get(&there, &room, &openid(&bob).await).await.ok();
    let sent = join_call(&there, &sent).await;
    just_looked(started).await;
    carol.membership(&room, "kick", json!({ "user_id": bob.id })).await.ok();
    thrown_out(sent).await;
    until_membership(&alice, &room, &bob.id, "leave").await;
    thrown_out(received).await;
    stays(alices).await;
}

/// An event as its server sends it to others.
async fn as_sent(peer: &Peer, server: &Server, event_id: &str) -> CanonicalJsonObject {
    let target = format!("/_matrix/federation/v1/event/{}", segment(event_id));
    let answer = Answer::to(peer.request(&server.name(), Method::GET, &target, None)).await.ok();
    serde_json::from_value(answer["pdus"][0].clone()).unwrap()
}

/// A ban, upon the newest event that a server knows.
fn ban(peer: &Peer, room: &mut PeerRoom, moderator: &str, banned: &str) -> CanonicalJsonObject {
    let content = json!({ "membership": "ban" });
    let mut event = room.unsigned(moderator, "m.room.member", Some(banned), content);
    let authorised_by = [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.member", moderator),
        ("m.room.member", banned),
    ]
    .map(|(event_type, state_key)| &room.state[&(event_type.to_owned(), state_key.to_owned())]);
    event.insert("auth_events".to_owned(), CanonicalJsonValue::try_from(json!(authorised_by)).unwrap());
    let event = room.sign(peer, event);
    room.add(&event);
    event
}

/// Bans on a fork that first lost and then wins: no event says that somebody's membership is another now, and the last one is a text.
#[tokio::test]
async fn who_is_removed_by_state_resolution_is_out_of_calls_before_all_are_looked_at() {
    const MODERATOR: &str = "moderator";
    let authority = Authority::new();
    let server = with_calls(&authority, &[]);
    let started = Instant::now();
    let peer = Peer::start(&authority);
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    bob.join(&room).await.ok();
    let (moderator, carol) = (peer.user(MODERATOR), peer.user("carol"));
    peer.join(&server.name(), &room, &moderator).await;
    let mut theirs: PeerRoom = peer.join(&server.name(), &room, &carol).await;
    let give = |power: u32| json!({ "users": { alice.id.clone(): 100, moderator.clone(): power } });
    let event = alice.set_state(&room, "m.room.power_levels", "", give(50)).await.ok();
    theirs.add(&as_sent(&peer, &server, event["event_id"].as_str().unwrap()).await);
    let fork = [&bob.id, &carol].map(|banned| ban(&peer, &mut theirs, &moderator, banned));

    let named = json!({ "sub": carol }).to_string();
    peer.answer_with("/openid/userinfo", move |_| PeerAnswer::Json(200, named.clone()));
    let begun = sfu_get(&server, &room, &openid(&bob).await).await.ok();
    let bobs = join_call(&server, &begun).await;
    let alices = sfu_get(&server, &room, &openid(&alice).await).await.ok();
    let alices = join_call(&server, &alices).await;
    let token = json!({ "access_token": "hers", "matrix_server_name": peer.name });
    let listens = sfu_get(&server, &room, &token).await.ok();
    let carols = join_call(&server, &listens).await;

    // By then the moderator is none.
    alice.set_state(&room, "m.room.power_levels", "", give(0)).await.ok();
    // They are kept, and not shown.
    assert!(peer.send_and_ask(&server.name(), &fork).await.is_empty(), "the bans are refused");
    alice.set_state(&room, "m.room.power_levels", "", give(50)).await.ok();
    for user in [&bob.id, &carol] {
        until_membership(&alice, &room, user, "join").await;
    }
    let text = theirs.message(&peer, &moderator, "the moderator again");
    just_looked(started).await;
    assert!(peer.send_and_ask(&server.name(), &[text]).await.is_empty(), "the text is refused");
    tokio::join!(thrown_out(bobs), thrown_out(carols));
    for user in [&bob.id, &carol] {
        until_membership(&alice, &room, user, "ban").await;
    }
    stays(alices).await;
}

/// Delays the event by which a user leaves the call of a room; answers its id.
async fn delay_leave(user: &User, room: &str) -> Value {
    let path = format!("state/org.matrix.msc3401.call.member/{}", segment(&user.id));
    user.put(&User::in_room(room, &path), &json!({ "here": true })).await.ok();
    let delayed = format!("{path}?org.matrix.msc4140.delay=600000");
    user.put(&User::in_room(room, &delayed), &json!({})).await.ok()["delay_id"].clone()
}

/// Waits until a user is no longer said to be in the call of a room.
async fn until_left(user: &User, room: &str) {
    let left = tokio::time::timeout(entente_tests::SOON, async {
        while user.state(room, "org.matrix.msc3401.call.member", &user.id).await.body != json!({}) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    left.await.expect("the leave is not sent");
}

#[tokio::test]
async fn a_delegated_leave_survives_a_crash_and_a_present_participant_does_not_leave() {
    let authority = Authority::new();
    let here = with_calls(&authority, &[]);
    let alice = User::register(&here, "alice").await;
    let room = alice.create_room(json!({})).await;
    let delay_id = delay_leave(&alice, &room).await;
    let with_leave = |delay_id: &Value, patience: u64| {
        json!({
            "room_id": room, "slot_id": CALL, "member_id": "one", "delay_id": delay_id, "delay_timeout": patience,
        })
    };
    let path = "/_matrix/client/v1/rtc/livekit/get_token";
    let answer = alice.post(path, &with_leave(&delay_id, 2_000)).await.ok();
    let joined = join_call(&here, &answer).await;
    let here = here.crash_and_restart();
    let alice = alice.at(&here);
    drop(joined);
    until_left(&alice, &room).await;
    // What was sent is not looked after again; clients that are told so ask for a token alone.
    alice.post(path, &with_leave(&delay_id, 2_000)).await.refused(400, "M_BAD_JSON");

    // Who is back in time, if only by signalling yet, stays.
    let delay_id = delay_leave(&alice, &room).await;
    let answer = alice.post(path, &with_leave(&delay_id, 6_000)).await.ok();
    let here = here.crash_and_restart();
    let alice = alice.at(&here);
    let joined = join_call(&here, &answer).await;
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    let state = alice.state(&room, "org.matrix.msc3401.call.member", &alice.id).await;
    assert_eq!(state.body, json!({ "here": true }));
    drop(joined);
    until_left(&alice, &room).await;
}

#[tokio::test]
async fn a_token_comes_with_a_leave_that_is_not_here() {
    let Scene { here, bob, room, there: _there, .. } = scene(&[]).await;
    let body = json!({
        "room": room, "openid_token": openid(&bob).await, "device_id": "DEVICE", "delay_id": "of his server",
        "delay_timeout": 1_000,
    });
    here.anonymous().post("/livekit/jwt/sfu/get", &body).await.ok();
}

#[tokio::test]
async fn a_leave_is_delegated_by_who_delayed_it() {
    let Scene { here, alice, bob, room, there: _there, .. } = scene(&[]).await;
    let delay_id = delay_leave(&alice, &room).await;
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
    wrong = body.clone();
    wrong["server_name"] = json!(name_of(&bob));
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
    until_left(&alice, &room).await;
    alice.post(&delegate, &body).await.refused(400, "M_INVALID_PARAM");
}
