//! Rooms that two servers share: joining, events from the other side, and forks that both resolve to the same state.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use entente_rooms::{MembershipRequest, Pdu, Profile, ROOM_VERSIONS, Received, RoomError, object};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::{Value, json};

use self::servers::{Home, Shared};

#[tokio::test]
async fn a_room_of_every_version_is_joined_and_spoken_in() {
    for version in ROOM_VERSIONS {
        let shared = Shared::new(&version).await;
        let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
        shared.join(&bob).await;
        shared.assert_same_state().await;
        let first = shared.other.say(&shared.room, &bob, "bonjour").await;
        shared.deliver(&shared.other, &shared.one, std::slice::from_ref(&first)).await;
        let answer = shared.one.say(&shared.room, &alice, "salut").await;
        shared.deliver(&shared.one, &shared.other, std::slice::from_ref(&answer)).await;
        for home in [&shared.one, &shared.other] {
            let view = home.rooms.view(&shared.room).await.unwrap();
            let end = view.timeline_end().await.unwrap();
            let newest = view.newest_before(end, 2).await.unwrap();
            let ids: Vec<&OwnedEventId> = newest.iter().map(|event| &event.event_id).collect();
            assert_eq!(ids, [&first, &answer], "version {version}");
            assert_eq!(newest[1].prev_events(), std::slice::from_ref(&first));
        }
        let again = shared.verified(&shared.one.json(&shared.room, &answer).await);
        assert_eq!(shared.other.rooms.receive(&shared.room, &again).await.unwrap(), Received::Known);
    }
}

#[tokio::test]
async fn both_sides_of_a_fork_come_to_the_same_state() {
    for version in ROOM_VERSIONS {
        let shared = Shared::new(&version).await;
        let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
        let carol = shared.other.user("carol");
        shared.join(&bob).await;
        let own = MembershipRequest::own(&carol, Profile::default(), None);
        shared.other.rooms.join(&shared.room, &own).await.unwrap();
        let joined =
            shared.other.state(&shared.room).await[&("m.room.member".to_owned(), carol.to_string())].clone();
        shared.deliver(&shared.other, &shared.one, &[joined]).await;
        let mut levels = json!({ "users": { bob.to_string(): 50 }, "users_default": 0, "state_default": 50, "ban": 50, "kick": 50 });
        if !shared.rules.authorization.explicitly_privilege_room_creators {
            levels["users"][alice.as_str()] = json!(100);
        }
        let given =
            shared.one.set(&shared.room, &alice, "m.room.power_levels", "", levels.clone()).await.unwrap();
        shared.deliver(&shared.one, &shared.other, &[given]).await;
        shared.assert_same_state().await;

        // The link is cut. Alice takes Bob's power; Bob meanwhile bans Carol and names the room.
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        let room = &shared.room;
        levels["users"][bob.as_str()] = json!(0);
        ones.push(shared.one.set(room, &alice, "m.room.topic", "", json!({ "topic": "un" })).await.unwrap());
        ones.push(shared.one.set(room, &alice, "m.room.power_levels", "", levels).await.unwrap());
        ones.push(shared.one.say(room, &alice, "là").await);
        others.push(
            shared.other.set(room, &bob, "m.room.topic", "", json!({ "topic": "deux" })).await.unwrap(),
        );
        let ban = json!({ "membership": "ban" });
        others.push(shared.other.set(room, &bob, "m.room.member", carol.as_str(), ban).await.unwrap());
        others.push(
            shared.other.set(room, &bob, "m.room.name", "", json!({ "name": "Chez Bob" })).await.unwrap(),
        );
        others.push(shared.other.say(room, &bob, "ici").await);
        shared.deliver(&shared.one, &shared.other, &ones).await;
        shared.deliver(&shared.other, &shared.one, &others).await;
        shared.assert_same_state().await;

        // Both ends grow together again.
        let merged = shared.one.say(room, &alice, "ensemble").await;
        shared.deliver(&shared.one, &shared.other, &[merged]).await;
        shared.assert_same_state().await;
        let view = shared.other.rooms.view(room).await.unwrap();
        let end = view.timeline_end().await.unwrap();
        let newest = view.newest_before(end, 1).await.unwrap();
        let prev_events = newest[0].prev_events();
        assert!(prev_events.contains(ones.last().unwrap()), "version {version}: {prev_events:?}");
    }
}

#[tokio::test]
async fn what_is_not_allowed_is_part_of_nothing() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    let room = &shared.room;
    // A stranger's message, made by somebody who writes what they like.
    let (_, template) = shared.one.rooms.membership_template(room, &bob, "join").await.unwrap();
    let mut forged = template.clone();
    forged.insert("type".to_owned(), "m.room.message".to_owned().into());
    forged.remove("state_key");
    let (forged, _) = shared.other.rooms.sign_template(forged, &shared.rules).unwrap();
    let forged = shared.verified(&serde_json::to_vec(&forged).unwrap());
    assert!(matches!(shared.one.rooms.receive(room, &forged).await.unwrap(), Received::Rejected(_)));
    let view = shared.one.rooms.view(room).await.unwrap();
    assert_eq!(view.member_counts().await.unwrap(), (1, 0));

    // Of another room, unsigned, signed by the wrong server.
    let mut elsewhere = template.clone();
    elsewhere.insert("room_id".to_owned(), "!elsewhere".to_owned().into());
    let (elsewhere, _) = shared.other.rooms.sign_template(elsewhere, &shared.rules).unwrap();
    let elsewhere = shared.verified(&serde_json::to_vec(&elsewhere).unwrap());
    assert!(matches!(shared.one.rooms.receive(room, &elsewhere).await, Err(RoomError::BadEvent(_))));
    let (signed, _) = shared.one.rooms.sign_template(template.clone(), &shared.rules).unwrap();
    let refused = Pdu::new(signed, &shared.rules).unwrap().verify(&shared.keys, &shared.rules);
    assert!(matches!(refused, Err(RoomError::Unauthorized(_))));

    // A content that is not what was hashed is redacted; what authorises a join is not lost by it.
    shared.join(&bob).await;
    let said = shared.other.say(room, &bob, "bonjour").await;
    let mut object: CanonicalJsonObject =
        serde_json::from_slice(&shared.other.json(room, &said).await).unwrap();
    object.insert("content".to_owned(), ruma::CanonicalJsonValue::Object(other_content()));
    let changed = shared.verified(&serde_json::to_vec(&object).unwrap());
    assert_eq!(shared.one.rooms.receive(room, &changed).await.unwrap(), Received::Accepted);
    let stored: Value = serde_json::from_slice(&shared.one.json(room, &said).await).unwrap();
    assert_eq!(stored["content"], json!({}));

    // What comes before is asked for.
    shared.one.say(room, &alice, "un").await;
    let second = shared.one.say(room, &alice, "deux").await;
    let pdu = shared.verified(&shared.one.json(room, &second).await);
    let received = shared.other.rooms.receive(room, &pdu).await.unwrap();
    assert!(matches!(received, Received::MissingPrevEvents(missing) if missing.len() == 1));
}

fn other_content() -> CanonicalJsonObject {
    object(json!({ "msgtype": "m.text", "body": "something else" })).unwrap()
}

#[tokio::test]
async fn who_was_put_out_meanwhile_is_not_shown() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    let room = &shared.room;
    shared.join(&bob).await;
    let ban = json!({ "membership": "ban" });
    let banned = shared.one.set(room, &alice, "m.room.member", bob.as_str(), ban).await.unwrap();
    // Bob's server has not heard of it.
    let said = shared.other.say(room, &bob, "encore là").await;
    let pdu = shared.verified(&shared.other.json(room, &said).await);
    assert_eq!(shared.one.rooms.receive(room, &pdu).await.unwrap(), Received::SoftFailed);
    let view = shared.one.rooms.view(room).await.unwrap();
    let end = view.timeline_end().await.unwrap();
    let seen = view.seen_by(&alice, view.newest_before(end, 3).await.unwrap()).await.unwrap();
    assert!(seen.iter().all(|seen| seen.event.event_id != said));
    shared.deliver(&shared.one, &shared.other, &[banned]).await;
    let membership = shared.other.rooms.view(room).await.unwrap().membership(&bob).await.unwrap();
    assert_eq!(membership, Some(entente_rooms::Membership::Ban));
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Does something that may be refused.
async fn do_something(
    dice: &mut Dice,
    home: &Home,
    room: &OwnedRoomId,
    users: &[OwnedUserId],
) -> Option<OwnedEventId> {
    let own: Vec<&OwnedUserId> =
        users.iter().filter(|user| user.server_name() == home.rooms.server_name()).collect();
    let (sender, target) = (own[dice.below(own.len())], &users[dice.below(users.len())]);
    let (event_type, state_key, content) = match dice.below(14) {
        0..=3 => ("m.room.topic", String::new(), json!({ "topic": dice.below(100) .to_string() })),
        4 => {
            let rule = ["public", "invite", "knock"][dice.below(3)];
            ("m.room.join_rules", String::new(), json!({ "join_rule": rule }))
        }
        5..=7 => {
            let view = home.rooms.view(room).await.unwrap();
            let state = view.current_state().await.unwrap();
            let levels = view.state_event(state, "m.room.power_levels", "").await.unwrap().unwrap();
            let mut content = levels.content_as::<Value>().unwrap();
            content["users"][target.as_str()] = json!([25, 50, 50, 75][dice.below(4)]);
            ("m.room.power_levels", String::new(), content)
        }
        // The first two stay, so that both sides have somebody who can speak.
        8..=10 if users[..2].contains(target) => return None,
        11.. if users[..2].contains(sender) => return None,
        8 if dice.below(3) > 0 => return None,
        8 => ("m.room.member", target.to_string(), json!({ "membership": "ban" })),
        9 => ("m.room.member", target.to_string(), json!({ "membership": "leave" })),
        10 => ("m.room.member", target.to_string(), json!({ "membership": "invite" })),
        _ => ("m.room.member", sender.to_string(), json!({ "membership": "join" })),
    };
    home.set(room, sender, event_type, &state_key, content).await.ok()
}

#[tokio::test]
async fn servers_agree_whatever_was_done_while_they_could_not_hear_each_other() {
    for (seed, version) in (1..).zip([
        RoomVersionId::V1,
        RoomVersionId::V2,
        RoomVersionId::V6,
        RoomVersionId::V10,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ]) {
        let shared = Shared::new(&version).await;
        let mut dice = Dice(seed);
        let mut users = vec![shared.one.user("alice")];
        users.extend(["bob", "carol", "dora"].map(|name| shared.other.user(name)));
        users.extend(["erin", "fred"].map(|name| shared.one.user(name)));
        shared.join(&users[1]).await;
        let homes = [&shared.one, &shared.other];
        let mut sent: [Vec<OwnedEventId>; 2] = [Vec::new(), Vec::new()];
        let mut levels = json!({ "users": { users[1].to_string(): 75, users[2].to_string(): 50, users[4].to_string(): 50 },
            "state_default": 25 });
        if !shared.rules.authorization.explicitly_privilege_room_creators {
            levels["users"][users[0].as_str()] = json!(100);
        }
        let set = shared.one.set(&shared.room, &users[0], "m.room.power_levels", "", levels).await.unwrap();
        sent[0].push(set);
        for (side, user) in [(1, &users[2]), (1, &users[3]), (0, &users[4]), (0, &users[5])] {
            let join = json!({ "membership": "join" });
            sent[side].push(
                homes[side].set(&shared.room, user, "m.room.member", user.as_str(), join).await.unwrap(),
            );
        }
        let mut delivered = [0, 0];
        let mut done = 0;
        for _ in 0..200 {
            let side = dice.below(2);
            if let Some(event_id) = do_something(&mut dice, homes[side], &shared.room, &users).await {
                sent[side].push(event_id);
                done += 1;
            }
            // Now and then one hears a part of what the other said.
            if dice.below(6) == 0 {
                let from = dice.below(2);
                let until = delivered[from] + dice.below(sent[from].len() - delivered[from] + 1);
                // What it was built upon came before.
                let needed: Vec<OwnedEventId> = sent[from][delivered[from]..until].to_vec();
                if from == 0 {
                    shared.deliver(homes[from], homes[1 - from], &needed).await;
                } else {
                    let mut pdus = Vec::new();
                    for event_id in &needed {
                        pdus.push(shared.verified(&homes[from].json(&shared.room, event_id).await));
                    }
                    for received in shared.take_together(homes[1 - from], &pdus).await {
                        let is_missing = matches!(
                            received,
                            Received::MissingAuthEvents(_) | Received::MissingPrevEvents(_)
                        );
                        assert!(!is_missing, "{received:?}");
                    }
                }
                delivered[from] = until;
            }
        }
        for from in 0..2 {
            let rest = sent[from][delivered[from]..].to_vec();
            shared.deliver(homes[from], homes[1 - from], &rest).await;
        }
        // What one side let pass and the other did not grows together with the next events of both.
        let last = shared.one.say(&shared.room, &users[0], "encore là ?").await;
        shared.deliver(&shared.one, &shared.other, &[last]).await;
        let last = shared.other.say(&shared.room, &users[1], "toujours").await;
        shared.deliver(&shared.other, &shared.one, &[last]).await;
        shared.assert_same_state().await;
        assert!(done > 40, "version {version}: only {done} events");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_while_people_here_talk() {
    for version in [RoomVersionId::V1, RoomVersionId::V12] {
        let shared = Shared::new(&version).await;
        let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
        shared.join(&bob).await;
        let mut theirs = Vec::new();
        for number in 0..40 {
            theirs.push(shared.other.say(&shared.room, &bob, &number.to_string()).await);
        }
        let here = async {
            for number in 0..40 {
                shared.one.say(&shared.room, &alice, &number.to_string()).await;
            }
        };
        let more = async {
            for number in 40..80 {
                shared.one.say(&shared.room, &alice, &number.to_string()).await;
            }
        };
        tokio::join!(here, more, shared.deliver(&shared.other, &shared.one, &theirs));
        let view = shared.one.rooms.view(&shared.room).await.unwrap();
        let end = view.timeline_end().await.unwrap();
        let newest = view.newest_before(end, 120).await.unwrap();
        let said = newest.iter().filter(|event| event.event_type.to_string() == "m.room.message").count();
        assert_eq!(said, 120, "version {version}");
    }
}
