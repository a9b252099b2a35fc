//! The room as its participants see it: what each is told, and what their peer connections are to do.

mod audience;
mod data;
mod events;
mod joining;
mod leaving;
mod quotas;
mod scene;
mod told;

use std::time::Duration;

use entente_environment::Clock;

use self::scene::{Scene, camera};
use super::*;
use crate::{
    proto::{
        AddTrackRequest, DisconnectReason, LeaveRequest, MuteTrackRequest, SignalRequest, TrackInfo,
        TrackSource, TrackType, UpdateSubscription, UpdateTrackSettings, leave_request::Action,
        participant_info::State, signal_request::Message as Request,
    },
    transport::{Figures, Renumbered, TransportEvent},
};

#[test]
fn who_joins_is_welcomed_and_told_of() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let first = scene.said(alice);
    let Some(Message::Join(welcome)) = first.first() else { panic!("{first:?}") };
    assert!(welcome.other_participants.is_empty() && !welcome.sif_trailer.is_empty());
    assert!(welcome.enabled_publish_codecs.iter().any(|codec| codec.mime == "audio/red"));
    assert!(first.iter().any(|message| matches!(message, Message::RefreshToken(_))));

    let bob = scene.join("bob");
    let told = scene.updates(alice);
    let states: Vec<_> = told.iter().map(|info| (info.identity.as_str(), info.state())).collect();
    assert_eq!(states, [("bob", State::Joined), ("bob", State::Active)]);
    assert!(told.is_sorted_by_key(|info| info.version), "{told:?}");
    let first = scene.said(bob);
    let Some(Message::Join(welcome)) = first.first() else { panic!("{first:?}") };
    assert_eq!(welcome.other_participants.first().unwrap().identity, "alice");
    assert_eq!(scene.room.info().num_participants, 2);
}

#[test]
fn the_same_identity_replaces_itself() {
    let mut scene = Scene::new();
    let (old, other) = (scene.join("alice"), scene.join("bob"));
    scene.said(other);
    let new = scene.join("alice");
    let said = scene.said(old);
    let Some(Message::Leave(leave)) = said.last() else { panic!("{said:?}") };
    assert_eq!((leave.reason(), leave.action()), (DisconnectReason::DuplicateIdentity, Action::Disconnect));
    let told = scene.updates(other);
    assert_eq!(told.first().unwrap().state(), State::Disconnected);
    assert_ne!(told.last().unwrap().sid, told.first().unwrap().sid);
    assert_eq!(scene.room.get_participant("alice").unwrap().sid, scene.sid(new));
    // What the old connection still says is nobody's.
    let late = SignalRequest { message: Some(Request::Leave(LeaveRequest::default())) };
    scene.room.signal(scene.now(), new, ConnectionKey(1), late);
    assert!(scene.room.get_participant("alice").is_ok());
}

/// Identities are chosen by clients; what is relayed for them counts for who they are.
#[test]
fn relaying_is_on_the_account_that_the_token_names() {
    let mut scene = Scene::new();
    for identity in ["one", "another"] {
        let key = scene.try_join(identity, |newcomer| newcomer.claims.quota_user = "@alice:a".to_owned());
        let key = key.unwrap();
        let said = scene.said(key);
        let Some(Message::Join(welcome)) = said.first() else { panic!("{said:?}") };
        assert_eq!(welcome.ice_servers.first().unwrap().username, "1060:@alice:a");
        let token = said.iter().find_map(|message| match message {
            Message::RefreshToken(token) => Some(token),
            _ => None,
        });
        let claims = scene.room.settings.api_key.verify(token.unwrap(), scene.clock.now()).unwrap();
        assert_eq!(claims.quota_user, "@alice:a");
    }
    let key = scene.try_join("alone", |_| {}).unwrap();
    let said = scene.said(key);
    let Some(Message::Join(welcome)) = said.first() else { panic!("{said:?}") };
    assert_eq!(welcome.ice_servers.first().unwrap().username, "1060:alone");
}

/// A room is not there any more after the program was started again, and who comes back first may be one who may not make it.
#[test]
fn who_was_there_comes_back_to_a_room_that_is_gone() {
    let mut scene = Scene::new();
    for (identity, owner) in [("of a user", "@alice:a"), ("of another program", "")] {
        let join = |newcomer: &mut Newcomer| {
            newcomer.claims.owner = owner.to_owned();
            newcomer.claims.video.room_create = false;
        };
        let key = scene.try_join(identity, join).unwrap();
        let said = scene.said(key);
        let token = said.iter().find_map(|message| match message {
            Message::RefreshToken(token) => Some(token),
            _ => None,
        });
        let claims = scene.room.settings.api_key.verify(token.unwrap(), scene.clock.now()).unwrap();
        // A token without an owner would let its holder make and end rooms by RoomService.
        assert_eq!(claims.video.room_create, !owner.is_empty(), "{identity}");
    }
}

#[test]
fn hidden_ones_are_not_told_of() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.said(alice);
    let hidden = scene.try_join("spy", |newcomer| newcomer.claims.video.hidden = true).unwrap();
    scene.transport(hidden, TransportEvent::Connected);
    scene.signal(hidden, Request::Leave(LeaveRequest::default()));
    assert!(scene.updates(alice).is_empty());
}

#[test]
fn a_full_room_lets_nobody_in_but_who_is_in_may_come_again() {
    let options = RoomOptions { maximum_participants: 1, ..RoomOptions::default() };
    let mut scene = Scene::with_options(options);
    scene.join("alice");
    assert_eq!(scene.try_join("bob", |_| {}), Err(Refusal::Full));
    assert!(scene.try_join("alice", |_| {}).is_ok());
}

#[test]
fn a_track_is_told_of_when_media_comes() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.join("alice"), scene.join("bob"));
    scene.said(bob);
    scene.signal(alice, Request::AddTrack(camera("cam")));
    let said = scene.said(alice);
    let published = said.iter().find_map(|message| match message {
        Message::TrackPublished(published) => published.track.clone(),
        _ => None,
    });
    let TrackInfo { sid, stream, simulcast, .. } = published.unwrap();
    assert!(sid.starts_with("TR_") && stream == "camera" && simulcast);
    scene.offer(alice, 1, &[("video", "a=msid:- cam\r\na=sendonly\r\na=simulcast:send q;h")]);
    assert!(scene.updates(bob).is_empty(), "nothing to see yet");
    scene.media(alice, "q", 1, true);
    let live = scene.updates(bob).last().unwrap().tracks.first().unwrap().clone();
    assert_eq!((live.sid, live.version.unwrap().unix_micro), (sid, 1_000_000_000));
    scene.pass(Duration::from_millis(300));
    let wanted = scene.said(bob).into_iter().find_map(|message| match message {
        Message::MediaSectionsRequirement(wanted) => Some((wanted.num_audios, wanted.num_videos)),
        _ => None,
    });
    assert_eq!(wanted, Some((0, 1)));
    scene.offer(alice, 2, &[("video", "a=inactive")]);
    assert!(scene.updates(bob).last().unwrap().tracks.is_empty());
}

#[test]
fn who_may_not_publish_is_refused() {
    let mut scene = Scene::new();
    let mute = |newcomer: &mut Newcomer| newcomer.claims.video.can_publish = Some(false);
    let alice = scene.try_join("alice", mute).unwrap();
    scene.said(alice);
    scene.signal(alice, Request::AddTrack(camera("cam")));
    let said = scene.said(alice);
    assert!(matches!(said[..], [Message::RequestResponse(_)]), "{said:?}");
    let screens = |newcomer: &mut Newcomer| {
        newcomer.claims.video.can_publish_sources = vec!["screen_share".to_owned()];
    };
    let bob = scene.try_join("bob", screens).unwrap();
    scene.said(bob);
    scene.signal(bob, Request::AddTrack(camera("cam")));
    assert!(matches!(scene.said(bob)[..], [Message::RequestResponse(_)]));
}

#[test]
fn subscribers_get_one_stream_from_the_keyframe_on_and_switch_layers_at_keyframes() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let track = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.stream(alice, 2, 8, false);
    assert!(scene.received(bob).is_empty(), "nothing can be decoded without a keyframe");
    scene.stream(alice, 10, 20, true);
    let first = scene.received(bob);
    assert_eq!(first.len(), 20, "one of the two layers, whole");

    let settings = UpdateTrackSettings { track_sids: vec![track], width: 320, ..Default::default() };
    scene.signal(bob, Request::TrackSetting(settings.clone()));
    scene.stream(alice, 30, 20, true);
    let second = scene.received(bob);
    let numbers: Vec<u64> = first.iter().chain(&second).map(|packet| packet.sequence).collect();
    let start = *numbers.first().unwrap();
    assert_eq!(numbers, (start..start + 40).collect::<Vec<_>>(), "no gap and nothing twice");
    let forward = |pair: &[Renumbered]| matches!(pair, [a, b] if a.timestamp < b.timestamp);
    assert!(second.windows(2).all(forward));

    let disabled = UpdateTrackSettings { disabled: true, ..settings };
    scene.signal(bob, Request::TrackSetting(disabled));
    scene.stream(alice, 50, 20, true);
    assert!(scene.received(bob).is_empty(), "it is not looked at");
}

#[test]
fn only_what_is_broken_off_is_not_sent_once_more() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.publish_camera(alice);
    let bob = scene.watch("bob");
    let forgotten = |scene: &mut Scene, bandwidth| {
        scene.transport(bob, TransportEvent::Bandwidth(bandwidth));
        let forgets = |output: &Output| matches!(output, Output::Transport(of, _, Command::ForgetSent(_)) if *of == bob);
        let found = scene.outputs.iter().any(forgets);
        scene.outputs.clear();
        found
    };
    scene.stream(alice, 2, 50, true);
    assert!(!forgotten(&mut scene, 1_000_000));
    scene.stream(alice, 52, 50, true);
    // Each layer has 4.8 kbit/s.
    assert!(forgotten(&mut scene, 3_000), "the larger one is broken off");
    scene.stream(alice, 102, 50, true);
    assert!(!forgotten(&mut scene, 2_500), "the smaller one goes on");
}

#[test]
fn keyframes_are_asked_for_but_not_too_often() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.outputs.clear();
    for _ in 0..20 {
        scene.transport(bob, TransportEvent::KeyframeWanted { mid: "0".into() });
    }
    scene.clock.advance(Duration::from_millis(600));
    for _ in 0..20 {
        scene.transport(bob, TransportEvent::KeyframeWanted { mid: "0".into() });
    }
    let asked = |output: &&Output| matches!(output, Output::Transport(_, _, Command::RequestKeyframe(..)));
    assert_eq!(scene.outputs.iter().filter(asked).count(), 1, "one was asked for at the subscription");
}

#[test]
fn a_subscription_can_be_declined_and_taken_up_again() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let track = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    let update = |subscribe| UpdateSubscription {
        track_sids: vec![track.clone()],
        subscribe,
        ..UpdateSubscription::default()
    };
    scene.signal(bob, Request::Subscription(update(false)));
    scene.stream(alice, 10, 20, true);
    assert!(scene.received(bob).is_empty());
    scene.signal(bob, Request::Subscription(update(true)));
    scene.offer(bob, 2, &[("video", "a=recvonly")]);
    scene.stream(alice, 30, 20, true);
    assert!(!scene.received(bob).is_empty());
    // What is not there is told after a while.
    let unknown = UpdateSubscription { track_sids: vec!["TR_x".to_owned()], ..update(true) };
    scene.signal(bob, Request::Subscription(unknown));
    scene.said(bob);
    scene.pass(Duration::from_secs(61));
    let told = scene.said(bob).into_iter().any(
        |message| matches!(message, Message::SubscriptionResponse(response) if response.track_sid == "TR_x"),
    );
    assert!(told);
}

#[test]
fn publishers_are_told_what_is_wanted_more_at_once_and_less_after_a_while() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let track = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.said(alice);
    let settings = UpdateTrackSettings { track_sids: vec![track], width: 100, ..Default::default() };
    scene.signal(bob, Request::TrackSetting(settings.clone()));
    let enabled = |messages: Vec<Message>| {
        messages.into_iter().rev().find_map(|message| match message {
            Message::SubscribedQualityUpdate(update) => {
                Some(update.subscribed_qualities.iter().filter(|quality| quality.enabled).count())
            }
            _ => None,
        })
    };
    assert_eq!(enabled(scene.said(alice)), None, "not at once");
    scene.stream(alice, 10, 300, false);
    assert_eq!(enabled(scene.said(alice)), Some(1));
    scene.signal(bob, Request::TrackSetting(UpdateTrackSettings { width: 640, ..settings }));
    assert_eq!(enabled(scene.said(alice)), Some(3), "at once");
}

#[test]
fn muting_is_told() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let sid = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.said(bob);
    scene.signal(alice, Request::Mute(MuteTrackRequest { sid: sid.clone(), muted: true }));
    assert!(scene.updates(bob).last().unwrap().tracks.first().unwrap().muted);
    // Nobody mutes what is another's.
    scene.signal(bob, Request::Mute(MuteTrackRequest { sid: sid.clone(), muted: false }));
    assert!(scene.room.get_participant("alice").unwrap().tracks.first().unwrap().muted);
    assert_eq!(scene.room.mute_track("bob", &sid, true), Err(AdminError::NoTrack));
}

#[test]
fn an_owner_is_thrown_out_with_all_sessions() {
    let mut scene = Scene::new();
    let own = |newcomer: &mut Newcomer| newcomer.claims.owner = "alice in the room".to_owned();
    let phone = scene.try_join("alice:phone", own).unwrap();
    scene.try_join("alice:laptop", own).unwrap();
    let bob = scene.join("bob");
    assert_eq!(scene.room.remove_owner(scene.now(), "alice in the room"), 2);
    scene.collect();
    let said = scene.said(phone);
    let Some(Message::Leave(leave)) = said.last() else { panic!("{said:?}") };
    assert_eq!(leave.reason(), DisconnectReason::ParticipantRemoved);
    assert_eq!(scene.room.list_participants().len(), 1);
    assert_eq!(scene.room.get_participant("bob").unwrap().sid, scene.sid(bob));
    assert_eq!(scene.room.remove_owner(scene.now(), ""), 0, "bob has no owner");
}

#[test]
fn an_owner_is_kept_from_publishing_and_let_again() {
    let mut scene = Scene::new();
    let own = |newcomer: &mut Newcomer| newcomer.claims.owner = "alice in the room".to_owned();
    scene.try_join("alice", own).unwrap();
    scene.join("bob");
    assert_eq!(scene.room.owners().collect::<Vec<_>>(), ["alice in the room"]);
    let may = |scene: &Scene, identity: &str| {
        let permission = scene.room.get_participant(identity).unwrap().permission.unwrap();
        (permission.can_publish, permission.can_publish_data, permission.can_subscribe)
    };
    assert_eq!(scene.room.permit_owner(scene.now(), "alice in the room", false), 1);
    assert_eq!(scene.room.permit_owner(scene.now(), "alice in the room", false), 0, "it is so already");
    assert_eq!(may(&scene, "alice"), (false, false, true));
    assert_eq!(scene.room.permit_owner(scene.now(), "", false), 0, "bob has no owner");
    assert_eq!(may(&scene, "bob"), (true, true, true));
    assert_eq!(scene.room.permit_owner(scene.now(), "alice in the room", true), 1);
    assert_eq!(may(&scene, "alice"), (true, true, true));
}

#[test]
fn who_floods_is_cut_off_and_the_others_are_not() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.join("alice"), scene.join("bob"));
    scene.publish_camera(alice);
    for sequence in 10..60_000 {
        scene.media(bob, "q", sequence, false);
        if sequence % 100 == 0 {
            scene.media(alice, "q", sequence, false);
        }
    }
    assert!(scene.room.get_participant("bob").is_err());
    let said = scene.said(bob);
    let Some(Message::Leave(leave)) = said.last() else { panic!("{said:?}") };
    assert_eq!(leave.reason(), DisconnectReason::ParticipantRemoved);
    assert!(scene.room.get_participant("alice").is_ok());
}

/// Tracks are named by whoever wants something done with them; it is done with one's own only.
#[test]
fn what_others_publish_is_theirs() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.join("alice"), scene.join("bob"));
    let sid = scene.publish_camera(alice);
    scene.signal(bob, Request::Mute(MuteTrackRequest { sid: sid.clone(), muted: true }));
    let tracks = scene.room.get_participant("alice").unwrap().tracks;
    assert!(!tracks.first().unwrap().muted);
    scene.said(bob);
    scene.signal(bob, Request::AddTrack(AddTrackRequest { sid: sid.clone(), ..camera("cam") }));
    let said = scene.said(bob);
    assert!(said.iter().all(|message| !matches!(message, Message::TrackPublished(_))), "{said:?}");
    scene.media(bob, "q", 1, true);
    assert!(scene.room.get_participant("bob").unwrap().tracks.is_empty());
}

#[test]
fn operators_see_how_everybody_fares() {
    let mut scene = Scene::new();
    let alice = scene.try_join("alice", |newcomer| newcomer.claims.owner = "owner".to_owned()).unwrap();
    scene.transport(alice, TransportEvent::Connected);
    scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.stream(alice, 10, 100, true);
    let path = |bytes, jitter| Figures {
        loss_from: Some(0.05),
        round_trip: Some(Duration::from_millis(40)),
        bytes_from: bytes,
        local: Some("192.0.2.1:7882".parse().unwrap()),
        remote: Some("192.0.2.9:5000".parse().unwrap()),
        jitter: Some(Duration::from_millis(jitter)),
        ..Figures::default()
    };
    scene.transport(alice, TransportEvent::Figures(path(1_000, 3)));
    scene.clock.advance(Duration::from_secs(2));
    scene.transport(alice, TransportEvent::Figures(path(251_000, 4)));
    scene.transport(bob, TransportEvent::Bandwidth(2_000_000));
    scene.transport(bob, TransportEvent::Figures(Figures::default()));
    let figures = scene.room.figures(scene.now());
    let [alices, bobs] = &figures.participants[..] else { panic!("{figures:?}") };
    assert_eq!((alices.owner.as_str(), alices.quality, bobs.quality), ("owner", "GOOD", "EXCELLENT"));
    let path = &alices.connections[0];
    assert_eq!((path.bitrate_from, path.bitrate_to), (1_000_000, 0));
    assert_eq!((path.jitter, path.is_relayed), (Some(Duration::from_millis(4)), false));
    assert_eq!(bobs.connections[0].estimate, Some(2_000_000));
    let published = &alices.published[0];
    assert_eq!((published.source, published.layers.len()), ("CAMERA", 2));
    let subscribed = &bobs.subscribed[0];
    assert_eq!((&subscribed.track, subscribed.layers, subscribed.paused), (&published.track, 2, false));
    assert!(subscribed.layer.is_some());
}

#[test]
fn an_empty_room_waits_and_ends() {
    let mut scene = Scene::new();
    assert!(!scene.room.is_finished(scene.now()));
    scene.clock.advance(Duration::from_secs(299));
    assert!(!scene.room.is_finished(scene.now()), "for its first participant");
    let alice = scene.join("alice");
    scene.pass(Duration::from_secs(600));
    assert!(!scene.room.is_finished(scene.now()), "somebody is there");
    scene.signal(alice, Request::Leave(LeaveRequest::default()));
    scene.clock.advance(Duration::from_secs(19));
    assert!(!scene.room.is_finished(scene.now()), "somebody may come back");
    scene.clock.advance(Duration::from_secs(1));
    assert!(scene.room.is_finished(scene.now()));
    scene.room.close(scene.now(), DisconnectReason::RoomClosed, Action::Disconnect);
    scene.collect();
    let events = scene.events();
    assert!(matches!(events.first(), Some(CallEvent::RoomStarted { .. })), "{events:?}");
    assert!(matches!(events.last(), Some(CallEvent::RoomFinished { .. })), "{events:?}");
    let left = |event: &&CallEvent| matches!(event, CallEvent::ParticipantLeft { was_reached: true, reason, .. } if *reason == "CLIENT_INITIATED");
    assert!(events.iter().any(left));
}
