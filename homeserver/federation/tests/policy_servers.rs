//! Rooms that have a policy server (S-S API, "Policy Servers"): what it does not sign is not sent, and not shown when others send it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use entente_rooms::{
    Direction, Draft, EventFilter, Membership, MembershipRequest, PolicyRefusal, PolicyServers, Preset,
    Profile, RoomError, RoomUpgrade, SendingDevice, object,
};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    canonical_json::redact,
    events::TimelineEventType,
    serde::Base64,
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::json;

use self::network::{Home, Network};

/// RFC 8410: what stands before the 32 bytes of a private key.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A policy server that dislikes a word.
struct Judge {
    key: Ed25519KeyPair,
    silent: Mutex<bool>,
    asked: AtomicUsize,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Judge")
    }
}

impl Judge {
    fn new(seed: u8) -> Self {
        let document = [&PKCS8_PREFIX[..], &[seed; 32]].concat();
        let key = Ed25519KeyPair::from_der(&document, String::from("policy_server")).unwrap();
        Self { key, silent: Mutex::new(false), asked: AtomicUsize::new(0) }
    }

    fn content(&self) -> serde_json::Value {
        let key: Base64 = Base64::new(self.key.public_key().to_vec());
        json!({ "via": "policy.example", "public_keys": { "ed25519": key.encode() } })
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl PolicyServers for Judge {
    fn sign<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a CanonicalJsonObject,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, PolicyRefusal>> {
        async move {
            assert_eq!(server, "policy.example");
            self.asked.fetch_add(1, Ordering::Relaxed);
            let refusal = |status, errcode: &str| PolicyRefusal {
                status,
                errcode: errcode.to_owned(),
                message: String::from("not in this room"),
                retry_after: None,
            };
            if *self.silent.lock() {
                return Err(refusal(502, "M_UNKNOWN"));
            }
            if serde_json::to_string(event).unwrap().contains("spam") {
                return Err(refusal(400, "M_FORBIDDEN"));
            }
            let rules = RoomVersionId::V12.rules().unwrap();
            let mut redacted = redact(event.clone(), &rules.redaction, None).unwrap();
            redacted.remove("signatures");
            sign_json("policy.example", &self.key, &mut redacted).unwrap();
            Ok(redacted.remove("signatures").unwrap().as_object().unwrap().clone())
        }
        .boxed()
    }
}

/// Two servers in a room that a third watches over.
struct Scene {
    one: Home,
    other: Home,
    policy: Home,
    judge: Arc<Judge>,
    /// The judge, as the other server reaches it.
    others_judge: Arc<Judge>,
    alice: OwnedUserId,
    bob: OwnedUserId,
    room: OwnedRoomId,
}

impl Scene {
    async fn new() -> Self {
        let network = Arc::new(Network::default());
        let one = Home::new(&network, "one.example", 1).await;
        let other = Home::new(&network, "other.example", 2).await;
        let policy = Home::new(&network, "policy.example", 3).await;
        let (judge, others_judge) = (Arc::new(Judge::new(7)), Arc::new(Judge::new(7)));
        one.rooms.ask_policy_servers_through(judge.clone());
        other.rooms.ask_policy_servers_through(others_judge.clone());
        let (alice, bob) = (one.user("alice"), other.user("bob"));
        let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
        other.join(&room, &bob, &one).await.unwrap();
        policy.join(&room, &policy.user("judge"), &one).await.unwrap();
        let member = one.state(&room).await;
        let judge_joined = member[&("m.room.member".to_owned(), "@judge:policy.example".to_owned())].clone();
        one.deliver(&other, &room, &[judge_joined]).await;
        Self { one, other, policy, judge, others_judge, alice, bob, room }
    }

    /// The room is put under the judge; the other server hears of it or not.
    async fn begin(&self, is_heard: bool) {
        let content = self.judge.content();
        let named = self.one.set(&self.room, &self.alice, "m.room.policy", "", content).await.unwrap();
        assert_eq!(self.judge.asked(), 0, "the policy server is not asked about itself");
        if is_heard {
            assert_eq!(self.one.deliver(&self.other, &self.room, &[named]).await, Vec::<String>::new());
        }
    }
}

async fn send(home: &Home, room: &RoomId, sender: &UserId, text: &str) -> Result<OwnedEventId, RoomError> {
    let content = object(json!({ "msgtype": "m.text", "body": text })).unwrap();
    home.rooms.send(room, Draft::message(sender, TimelineEventType::RoomMessage, content)).await
}

async fn bodies(home: &Home, room: &RoomId, reader: &UserId) -> Vec<String> {
    let view = home.rooms.view(room).await.unwrap();
    let end = view.timeline_end().await.unwrap();
    let filter = EventFilter::default();
    let page = view.timeline(reader, end, None, Direction::Backward, 100, &filter).await.unwrap();
    let body = |seen: &entente_rooms::Seen| {
        let content: serde_json::Value = seen.event.content_as().unwrap();
        content["body"].as_str().map(str::to_owned)
    };
    page.events.iter().rev().filter_map(body).collect()
}

fn is_signed(event: &CanonicalJsonObject) -> bool {
    let signatures = event["signatures"].as_object().unwrap();
    signatures
        .get("policy.example")
        .is_some_and(|of_server| of_server.as_object().unwrap().contains_key("ed25519:policy_server"))
}

#[tokio::test]
async fn what_is_sent_is_signed_first_and_what_is_refused_is_not_sent() {
    let scene = Scene::new().await;
    let Scene { one, other, judge, others_judge, alice, bob, room, .. } = &scene;
    let before = send(one, room, alice, "before").await.unwrap();
    one.deliver(other, room, &[before]).await;
    assert_eq!((judge.asked(), others_judge.asked()), (0, 0), "a room without policy server asks nobody");
    scene.begin(true).await;

    let said = send(one, room, alice, "good day").await.unwrap();
    assert_eq!(judge.asked(), 1);
    assert!(is_signed(&one.event(room, &said).await));
    assert_eq!(one.deliver(other, room, std::slice::from_ref(&said)).await, Vec::<String>::new());
    assert_eq!(others_judge.asked(), 0, "the signature is in the event");
    assert_eq!(bodies(other, room, bob).await, ["before", "good day"]);

    let refused = send(one, room, alice, "buy spam").await;
    let Err(RoomError::PolicyRefused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!((refusal.status, refusal.errcode.as_str()), (400, "M_FORBIDDEN"));
    let name = one.set(room, alice, "m.room.name", "", json!({ "name": "spam" })).await;
    assert!(matches!(name, Err(RoomError::PolicyRefused(_))), "state events are asked about too");
    assert_eq!(bodies(one, room, alice).await, ["before", "good day"]);

    // Nothing goes out while it does not answer, but the room can be rid of it.
    *judge.silent.lock() = true;
    assert!(matches!(send(one, room, alice, "hello?").await, Err(RoomError::PolicyRefused(_))));
    one.set(room, alice, "m.room.policy", "", json!({})).await.unwrap();
    judge.asked();
    send(one, room, alice, "buy spam").await.unwrap();
    assert_eq!(judge.asked(), 0);
}

#[tokio::test]
async fn what_others_send_without_its_signature_is_shown_only_if_it_signs() {
    let scene = Scene::new().await;
    scene.begin(false).await;
    let Scene { one, other, judge, alice, bob, room, .. } = &scene;
    let good = other.say(room, bob, "good day").await;
    let bad = other.say(room, bob, "buy spam").await;
    assert_eq!(other.deliver(one, room, std::slice::from_ref(&good)).await, Vec::<String>::new());
    assert_eq!(judge.asked(), 1);
    assert!(is_signed(&one.event(room, &good).await), "it is kept with the signature");
    assert_eq!(other.deliver(one, room, std::slice::from_ref(&bad)).await, Vec::<String>::new());
    assert_eq!(judge.asked(), 1);
    assert_eq!(bodies(one, room, alice).await, ["good day"]);

    // A signature that somebody made up is none.
    let mut forged = other.event(room, &other.say(room, bob, "more spam").await).await;
    let of_policy = json!({ "ed25519:policy_server": "A".repeat(86) });
    let signatures = forged.get_mut("signatures").unwrap();
    let ruma::CanonicalJsonValue::Object(signatures) = signatures else { panic!("no signatures") };
    signatures.insert("policy.example".to_owned(), of_policy.try_into().unwrap());
    assert_eq!(other.press(one, vec![forged]).await, 1);
    assert_eq!(judge.asked(), 1);
    *judge.silent.lock() = true;
    let late = other.say(room, bob, "is anybody there?").await;
    other.deliver(one, room, &[late]).await;
    assert_eq!(bodies(one, room, alice).await, ["good day"], "who is not vouched for is not shown");
    *judge.silent.lock() = false;
    send(one, room, alice, "the room goes on").await.unwrap();
    assert_eq!(bodies(one, room, alice).await, ["good day", "the room goes on"]);
}

#[tokio::test]
async fn without_a_user_in_the_room_it_has_no_say() {
    let scene = Scene::new().await;
    scene.begin(true).await;
    let Scene { one, policy, judge, alice, room, .. } = &scene;
    *judge.silent.lock() = true;
    assert!(send(one, room, alice, "hello?").await.is_err());
    *judge.silent.lock() = false;
    let kick = MembershipRequest::others(alice, &policy.user("judge"), Profile::default(), None);
    one.rooms.kick(room, &kick).await.unwrap();
    assert!(judge.asked() > 0, "memberships are asked about");
    send(one, room, alice, "buy spam").await.unwrap();
    assert_eq!(judge.asked(), 0);
}

#[tokio::test]
async fn retries_invites_and_upgrades_work_in_such_rooms() {
    let scene = Scene::new().await;
    scene.begin(true).await;
    let Scene { one, other, judge, alice, room, .. } = &scene;
    let device = SendingDevice { device_id: "D".to_owned(), transaction_id: "1".to_owned() };
    let content = object(json!({ "msgtype": "m.text", "body": "once" })).unwrap();
    let draft = Draft::message(alice, TimelineEventType::RoomMessage, content);
    let draft = Draft { device: Some(device), ..draft };
    let (first, again) =
        tokio::join!(one.rooms.send(room, draft.clone()), one.rooms.send(room, draft.clone()));
    assert_eq!(first.unwrap(), again.unwrap());
    one.rooms.send(room, draft).await.unwrap();
    assert_eq!(bodies(one, room, alice).await, ["once"]);

    let carol = other.user("carol");
    let request = MembershipRequest::others(alice, &carol, Profile::default(), None);
    one.shared.invite(room, &request).await.unwrap();
    let invited = one.state(room).await[&("m.room.member".to_owned(), carol.to_string())].clone();
    assert!(is_signed(&one.event(room, &invited).await));
    let request = MembershipRequest::others(
        alice,
        &UserId::parse("@spam:other.example").unwrap(),
        Profile::default(),
        None,
    );
    assert!(one.shared.invite(room, &request).await.is_err());
    assert!(
        other.rooms.rooms_of(&request.target, Membership::Invite).await.unwrap().is_empty(),
        "nobody is invited before the policy server agreed"
    );

    judge.asked();
    let upgrade = RoomUpgrade {
        user_id: alice.clone(),
        profile: Profile::default(),
        version: RoomVersionId::V12,
        additional_creators: Vec::new(),
    };
    let new = one.rooms.upgrade_room(room, &upgrade).await.unwrap();
    let tombstone = one.state(room).await[&("m.room.tombstone".to_owned(), String::new())].clone();
    let tombstone = one.event(room, &tombstone).await;
    assert!(is_signed(&tombstone));
    assert_eq!(tombstone["content"].as_object().unwrap()["replacement_room"].as_str(), Some(new.as_str()));
    assert!(judge.asked() >= 2, "the tombstone and the power levels");
}
