//! What servers do with each other: join, invite, knock, hear each other again after a while, read the past.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::sync::Arc;

use entente_federation::{FederationError, Transaction};
use entente_rooms::{
    Direction, EventFilter, Membership, MembershipRequest, Preset, Profile, ROOM_VERSIONS, RoomError,
};
use ruma::{OwnedEventId, RoomId, RoomVersionId, UserId};
use serde_json::json;

use self::network::{Home, Network};

async fn two() -> (Arc<Network>, Home, Home) {
    let network = Arc::new(Network::default());
    let one = Home::new(&network, "one.example", 1).await;
    let other = Home::new(&network, "other.example", 2).await;
    (network, one, other)
}

async fn bodies(home: &Home, room: &RoomId, reader: &UserId) -> Vec<String> {
    let view = home.rooms.view(room).await.unwrap();
    let end = view.timeline_end().await.unwrap();
    let filter = EventFilter::default();
    let page = view.timeline(reader, end, None, Direction::Backward, 1_000, &filter).await.unwrap();
    let body = |seen: &entente_rooms::Seen| {
        let content: serde_json::Value = seen.event.content_as().unwrap();
        content["body"].as_str().map(str::to_owned)
    };
    page.events.iter().rev().filter_map(body).collect()
}

#[tokio::test]
async fn rooms_of_every_version_are_joined_and_their_past_is_read() {
    for version in ROOM_VERSIONS {
        let (_, one, other) = two().await;
        let (alice, bob) = (one.user("alice"), other.user("bob"));
        let room = one.create(&alice, version.clone(), Preset::Public).await;
        let mut said = Vec::new();
        for number in 0..50 {
            said.push(number.to_string());
            one.say(&room, &alice, &number.to_string()).await;
        }
        other.join(&room, &bob, &one).await.unwrap();
        assert_eq!(one.state(&room).await, other.state(&room).await, "version {version}");
        let answer = other.say(&room, &bob, "bonjour").await;
        assert_eq!(other.deliver(&one, &room, &[answer]).await, Vec::<String>::new());
        said.push("bonjour".to_owned());
        assert_eq!(bodies(&one, &room, &alice).await, said);
        assert_eq!(bodies(&other, &room, &bob).await, ["bonjour"]);
        while other.shared.fetch_past(&room, 20).await.unwrap() > 0 {}
        assert_eq!(bodies(&other, &room, &bob).await, said, "version {version}");
    }
}

#[tokio::test]
async fn who_was_away_catches_up() {
    let (network, one, other) = two().await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    other.join(&room, &bob, &one).await.unwrap();
    let mut said = Vec::new();
    let mut newest = None;
    for number in 0..15 {
        newest = Some(one.say(&room, &alice, &number.to_string()).await);
        said.push(number.to_string());
    }
    // Only the newest arrives: what is missing is asked for.
    let newest: Vec<OwnedEventId> = newest.into_iter().collect();
    assert_eq!(one.deliver(&other, &room, &newest).await, Vec::<String>::new());
    assert_eq!(bodies(&other, &room, &bob).await, said);

    // More than can be asked for: the room goes on, with a gap.
    for number in 0..200 {
        one.say(&room, &alice, &format!("later {number}")).await;
    }
    one.set(&room, &alice, "m.room.name", "", json!({ "name": "Conseil" })).await.unwrap();
    let newest = one.say(&room, &alice, "at last").await;
    assert_eq!(one.deliver(&other, &room, std::slice::from_ref(&newest)).await, Vec::<String>::new());
    let heard = bodies(&other, &room, &bob).await;
    assert_eq!(heard.last().map(String::as_str), Some("at last"));
    assert!(heard.len() > said.len() + 10, "{heard:?}");
    assert_eq!(one.state(&room).await, other.state(&room).await);

    // Nobody can be asked: the event is not refused, which would lose it, but wanted again.
    for number in 0..3 {
        one.say(&room, &alice, &format!("unheard {number}")).await;
    }
    let newest = one.say(&room, &alice, "and now").await;
    network.cut_off(&one);
    let error = one.try_to_deliver(&other, &room, std::slice::from_ref(&newest)).await.unwrap_err();
    assert!(matches!(error, FederationError::Unreachable { .. }), "{error}");
    network.connect();
    assert_eq!(one.deliver(&other, &room, &[newest]).await, Vec::<String>::new());
    let heard = bodies(&other, &room, &bob).await;
    assert_eq!(heard[heard.len() - 2..], ["unheard 2", "and now"]);
}

#[tokio::test]
async fn invites_cross_servers() {
    let (network, one, other) = two().await;
    let (alice, bob, carol) = (one.user("alice"), other.user("bob"), other.user("carol"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Private).await;
    assert!(other.join(&room, &bob, &one).await.is_err(), "nobody was invited");
    for user in [&bob, &carol] {
        let request = MembershipRequest::others(&alice, user, Profile::default(), None);
        one.shared.invite(&room, &request).await.unwrap();
        assert_eq!(
            other.rooms.rooms_of(user, Membership::Invite).await.unwrap(),
            std::slice::from_ref(&room)
        );
    }
    assert_eq!(one.rooms.view(&room).await.unwrap().member_counts().await.unwrap(), (1, 2));
    other.join(&room, &bob, &one).await.unwrap();
    assert_eq!(one.state(&room).await, other.state(&room).await);

    // Carol's server is in the room now; she declines there.
    let view = other.rooms.view(&room).await.unwrap();
    assert_eq!(view.membership(&carol).await.unwrap(), Some(Membership::Invite));

    // Dora's is not, and nobody can be reached: she is rid of the invite all the same.
    let third = Home::new(&network, "third.example", 3).await;
    let dora = third.user("dora");
    let request = MembershipRequest::others(&alice, &dora, Profile::default(), None);
    one.shared.invite(&room, &request).await.unwrap();
    network.cut_off(&third);
    third.shared.leave_outside(&room, &dora, None).await.unwrap();
    assert!(third.rooms.rooms_of(&dora, Membership::Invite).await.unwrap().is_empty());
    network.connect();
    // Invited again, she declines and everybody hears of it.
    assert!(one.shared.invite(&room, &request).await.is_ok());
    third.shared.leave_outside(&room, &dora, Some("no time")).await.unwrap();
    let view = one.rooms.view(&room).await.unwrap();
    assert_eq!(view.membership(&dora).await.unwrap(), Some(Membership::Leave));
    let none = third.shared.leave_outside(&room, &dora, None).await;
    assert!(matches!(none, Err(FederationError::Room(RoomError::Forbidden(_)))));
}

#[tokio::test]
async fn who_knocks_is_let_in() {
    let (_, one, other) = two().await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Private).await;
    one.set(&room, &alice, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await.unwrap();
    other.shared.knock(&Home::request(&room, &bob, &one)).await.unwrap();
    assert_eq!(other.rooms.rooms_of(&bob, Membership::Knock).await.unwrap(), std::slice::from_ref(&room));
    let view = one.rooms.view(&room).await.unwrap();
    assert_eq!(view.membership(&bob).await.unwrap(), Some(Membership::Knock));
    let request = MembershipRequest::others(&alice, &bob, Profile::default(), None);
    one.shared.invite(&room, &request).await.unwrap();
    other.join(&room, &bob, &one).await.unwrap();
    assert_eq!(one.state(&room).await, other.state(&room).await);
}

#[tokio::test]
async fn members_of_one_room_come_into_another() {
    let (_, one, other) = two().await;
    let (alice, bob, carol) = (one.user("alice"), other.user("bob"), other.user("carol"));
    let space = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    let room = one.create(&alice, RoomVersionId::V12, Preset::Private).await;
    let rule =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    one.set(&room, &alice, "m.room.join_rules", "", rule).await.unwrap();
    other.join(&space, &bob, &one).await.unwrap();
    other.join(&room, &bob, &one).await.unwrap();
    assert_eq!(one.state(&room).await, other.state(&room).await);
    let refused = other.join(&room, &carol, &one).await;
    assert!(matches!(refused, Err(FederationError::Status { status: 403, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_is_shut_out_is_heard_no_more() {
    let (_, one, other) = two().await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    other.join(&room, &bob, &one).await.unwrap();
    let list = json!({ "allow": ["*"], "deny": ["other.*"] });
    one.set(&room, &alice, "m.room.server_acl", "", list).await.unwrap();
    let said = other.say(&room, &bob, "hello?").await;
    let origin = other.rooms.server_name().to_owned();
    let pdus = vec![other.event(&room, &said).await];
    let transaction = Transaction { origin: origin.clone(), transaction_id: "1".to_owned(), pdus };
    let refused = one.shared.receive(transaction).await;
    assert!(matches!(refused, Ok(answer) if answer.values().all(Result::is_err)));
    assert!(!bodies(&one, &room, &alice).await.contains(&"hello?".to_owned()));
    assert!(matches!(
        one.shared.readable_view(&origin, &room).await,
        Err(FederationError::Room(RoomError::Forbidden(_)))
    ));
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_only() {
    let (network, one, other) = two().await;
    let third = Home::new(&network, "third.example", 3).await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    let made =
        one.shared.make_membership(third.rooms.server_name(), &room, &bob, "join", &ROOM_VERSIONS).await;
    assert!(matches!(made, Err(FederationError::Room(RoomError::Forbidden(_)))));
    let made = one
        .shared
        .make_membership(other.rooms.server_name(), &room, &bob, "join", &[RoomVersionId::V1])
        .await;
    assert!(matches!(made, Err(FederationError::IncompatibleVersion(_))));
    let none = one.shared.readable_view(third.rooms.server_name(), &room).await;
    assert!(matches!(none, Err(FederationError::Room(RoomError::Forbidden(_)))));

    // What another server made is taken from a third, unchanged only.
    other.join(&room, &bob, &one).await.unwrap();
    third.join(&room, &third.user("dora"), &one).await.unwrap();
    let said = other.say(&room, &bob, "by way of others").await;
    let mut changed = other.event(&room, &said).await;
    let forged = {
        changed.insert("sender".to_owned(), alice.as_str().into());
        changed.clone()
    };
    let origin = third.rooms.server_name().to_owned();
    let forged = Transaction { origin: origin.clone(), transaction_id: "1".to_owned(), pdus: vec![forged] };
    assert!(one.shared.receive(forged).await.unwrap().is_empty());
    assert!(bodies(&one, &room, &alice).await.is_empty());
    let pdus = vec![other.event(&room, &said).await];
    let passed_on = Transaction { origin, transaction_id: "2".to_owned(), pdus };
    assert!(one.shared.receive(passed_on).await.unwrap().values().all(Result::is_ok));
    assert_eq!(bodies(&one, &room, &alice).await, ["by way of others"]);
}
