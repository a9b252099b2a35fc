//! What servers tell each other of a room's past, and of rooms in which one of them is not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use std::sync::Arc;

use entente_rooms::{
    Chapter, Direction, Event, EventFilter, Membership, MembershipRequest, OutsideMembership, Profile,
    ROOM_VERSIONS, Received, RoomError,
};
use ruma::{OwnedEventId, RoomVersionId, UserId};
use serde_json::{Value, json};

use self::servers::{Home, Shared};

/// Everything that a user sees of a room, the oldest first.
async fn timeline(home: &Home, shared: &Shared, reader: &UserId) -> Vec<Arc<Event>> {
    let view = home.rooms.view(&shared.room).await.unwrap();
    let mut place = view.timeline_end().await.unwrap();
    let mut events = Vec::new();
    loop {
        let filter = EventFilter::default();
        let page = view.timeline(reader, place, None, Direction::Backward, 7, &filter).await.unwrap();
        events.extend(page.events.into_iter().map(|seen| seen.event));
        match page.end {
            Some(end) => place = end,
            None => break,
        }
    }
    events.reverse();
    events
}

fn ids(events: &[Arc<Event>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// Fetches what came before a room's beginning here, until nothing is left.
async fn backfill(shared: &Shared, limit: usize) -> usize {
    let mut chapters = 0;
    loop {
        let view = shared.other.rooms.view(&shared.room).await.unwrap();
        let oldest = view.oldest_events(limit).await.unwrap();
        let open = view.unknown_before(&oldest).await.unwrap();
        if open.is_empty() {
            return chapters;
        }
        let source = shared.one.rooms.view(&shared.room).await.unwrap();
        let mut events = source.history_before(&open, limit + open.len()).await.unwrap();
        events.reverse();
        let first = events.first().unwrap().clone();
        let (state, auth_chain) = source.state_before(&first.event_id).await.unwrap();
        let told =
            shared.told(state.iter().map(|event| event.json()), auth_chain.iter().map(|event| event.json()));
        let events = events.iter().map(|event| shared.verified(event.json())).collect();
        let added = shared
            .other
            .rooms
            .add_history(
                &shared.room,
                &Chapter { events, told: vec![(first.event_id.clone(), told)], gap: None },
            )
            .await
            .unwrap();
        assert!(added > 0, "nothing was added before {open:?}");
        chapters += 1;
    }
}

#[tokio::test]
async fn what_came_before_a_join_is_read_by_the_other_side() {
    for version in ROOM_VERSIONS {
        let shared = Shared::new(&version).await;
        let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
        for number in 0..20 {
            shared.one.say(&shared.room, &alice, &number.to_string()).await;
            let topic = json!({ "topic": number.to_string() });
            shared.one.set(&shared.room, &alice, "m.room.topic", "", topic).await.unwrap();
        }
        let secret = shared.one.say(&shared.room, &alice, "a slip").await;
        shared.one.rooms.redact(&shared.room, &alice, &secret, None, None).await.unwrap();
        shared.join(&bob).await;
        let heard = shared.one.say(&shared.room, &alice, "welcome").await;
        shared.deliver(&shared.one, &shared.other, &[heard]).await;
        assert_eq!(timeline(&shared.other, &shared, &bob).await.len(), 2, "version {version}");

        assert!(backfill(&shared, 10).await > 3);
        let (ours, theirs) =
            (timeline(&shared.one, &shared, &alice).await, timeline(&shared.other, &shared, &bob).await);
        assert_eq!(ids(&ours), ids(&theirs), "version {version}");
        let slip = theirs.iter().find(|event| event.event_id == secret).unwrap();
        assert_eq!(slip.content().get(), "{}");
        for (our, their) in ours.iter().zip(&theirs) {
            let (one, other) = (
                shared.one.rooms.view(&shared.room).await.unwrap(),
                shared.other.rooms.view(&shared.room).await.unwrap(),
            );
            let mut states = [
                ids(&one.full_state(our.state_before()).await.unwrap()),
                ids(&other.full_state(their.state_before()).await.unwrap()),
            ];
            for state in &mut states {
                state.sort();
            }
            assert_eq!(states[0], states[1], "version {version}, before {}", our.event_id);
        }
        // It changed nothing about the present, and the room goes on.
        shared.assert_same_state().await;
        let answer = shared.other.say(&shared.room, &bob, "thanks").await;
        shared.deliver(&shared.other, &shared.one, &[answer]).await;
        shared.assert_same_state().await;
    }
}

#[tokio::test]
async fn a_gap_is_closed_by_the_events_between() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    shared.join(&bob).await;
    let mut said = Vec::new();
    for number in 0..30 {
        said.push(shared.one.say(&shared.room, &alice, &number.to_string()).await);
    }
    let newest = said.last().unwrap();
    let view = shared.one.rooms.view(&shared.room).await.unwrap();
    let earliest = [said[9].clone()];
    let between = view.events_between(&earliest, std::slice::from_ref(newest), 0, 100).await.unwrap();
    assert_eq!(ids(&between), said[10..29]);
    let few = view.events_between(&earliest, std::slice::from_ref(newest), 0, 5).await.unwrap();
    assert_eq!(ids(&few), said[24..29]);

    // Where the gap is too wide, the state before an event is taken as told.
    let pdu = shared.verified(&shared.one.json(&shared.room, newest).await);
    let received = shared.other.rooms.receive(&shared.room, &pdu).await.unwrap();
    assert!(matches!(received, Received::MissingPrevEvents(_)));
    let (state, auth_chain) = view.state_before(newest).await.unwrap();
    let told =
        shared.told(state.iter().map(|event| event.json()), auth_chain.iter().map(|event| event.json()));
    let received = shared.other.rooms.receive_with_state(&shared.room, &pdu, &told).await.unwrap();
    assert_eq!(received, Received::Accepted);
    shared.assert_same_state().await;
    let answer = shared.other.say(&shared.room, &bob, "that was much").await;
    shared.deliver(&shared.other, &shared.one, &[answer]).await;
    shared.assert_same_state().await;
}

#[tokio::test]
async fn servers_read_what_their_users_might_see() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    let room = &shared.room;
    let open = shared.one.say(room, &alice, "for whoever comes").await;
    let closed = json!({ "history_visibility": "joined" });
    shared.one.set(room, &alice, "m.room.history_visibility", "", closed).await.unwrap();
    let hidden = shared.one.say(room, &alice, "for those who are here").await;
    shared.join(&bob).await;
    let heard = shared.one.say(room, &alice, "for Bob too").await;
    let view = shared.one.rooms.view(room).await.unwrap();
    let other = shared.other.rooms.server_name();
    view.require_server(other).await.unwrap();
    let elsewhere = <&ruma::ServerName>::try_from("third.example").unwrap();
    assert!(matches!(view.require_server(elsewhere).await, Err(RoomError::Forbidden(_))));
    for (event_id, is_shown) in [(open, true), (hidden, false), (heard, true)] {
        let event = view.event_by_id(&event_id).await.unwrap().unwrap();
        let shown = view.shown_to(other, std::slice::from_ref(&event)).await.unwrap();
        let content = &serde_json::from_slice::<Value>(&shown[0]).unwrap()["content"];
        assert_eq!(content != &json!({}), is_shown, "{event_id}");
        assert_eq!(view.may_be_shown(other, &event).await.unwrap(), is_shown);
    }
    assert_eq!(view.servers().await.unwrap(), [other.as_str()]);
    shared
        .one
        .set(room, &alice, "m.room.member", bob.as_str(), json!({ "membership": "ban" }))
        .await
        .unwrap();
    let view = shared.one.rooms.view(room).await.unwrap();
    assert!(view.servers().await.unwrap().is_empty());
    assert!(view.is_resident().await.unwrap());
}

#[tokio::test]
async fn an_invite_shows_a_room_that_is_elsewhere() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    let room = &shared.room;
    let name = json!({ "name": "Conseil" });
    shared.one.set(room, &alice, "m.room.name", "", name).await.unwrap();
    let request = MembershipRequest::others(&alice, &bob, Profile::default(), None);
    let invite = shared.one.rooms.prepare_invite(room, &request).await.unwrap();
    let told: Vec<ruma::CanonicalJsonObject> =
        invite.told.iter().map(|json| serde_json::from_slice(json).unwrap()).collect();
    assert!(told.iter().any(|event| event["type"].as_str() == Some("m.room.name")));
    let event = shared.verified(&invite.event);
    let outside = OutsideMembership {
        room_id: room.clone(),
        version: invite.version.clone(),
        user_id: bob.clone(),
        membership: Membership::Invite,
        event: event.clone(),
        told,
    };
    // Told twice, as servers do.
    shared.other.rooms.note_outside(&outside).await.unwrap();
    shared.other.rooms.note_outside(&outside).await.unwrap();
    assert_eq!(shared.one.rooms.receive(room, &event).await.unwrap(), Received::Accepted);
    let invited = |home: &Home| {
        let (rooms, bob) = (home.rooms.clone(), bob.clone());
        async move { rooms.rooms_of(&bob, Membership::Invite).await.unwrap() }
    };
    assert_eq!(invited(&shared.other).await, std::slice::from_ref(room));
    let view = shared.other.rooms.view(room).await.unwrap();
    assert!(!view.is_resident().await.unwrap());
    assert_eq!(view.told_state(&bob).await.unwrap().len(), outside.told.len());
    // Nothing can be done in a room that is elsewhere.
    let own = MembershipRequest::own(&bob, Profile::default(), None);
    assert!(shared.other.rooms.join(room, &own).await.is_err());

    shared.join(&bob).await;
    shared.assert_same_state().await;
    assert!(invited(&shared.other).await.is_empty());
    let view = shared.other.rooms.view(room).await.unwrap();
    assert!(view.is_resident().await.unwrap());
    assert!(view.told_state(&bob).await.unwrap().is_empty());
    assert_eq!(view.membership(&bob).await.unwrap(), Some(Membership::Join));

    // Another user declines, while no other server can be reached.
    let carol = shared.other.user("carol");
    let request = MembershipRequest::others(&alice, &carol, Profile::default(), None);
    let invite = shared.one.rooms.prepare_invite(room, &request).await.unwrap();
    let outside =
        OutsideMembership { user_id: carol.clone(), event: shared.verified(&invite.event), ..outside };
    shared.other.rooms.note_outside(&outside).await.unwrap();
    shared.other.rooms.end_outside(room, &carol).await.unwrap();
    assert!(matches!(shared.other.rooms.end_outside(room, &carol).await, Err(RoomError::BadState(_))));
    let wrong = OutsideMembership { user_id: bob, ..outside };
    assert!(matches!(shared.other.rooms.note_outside(&wrong).await, Err(RoomError::BadEvent(_))));
}
