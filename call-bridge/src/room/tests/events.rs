//! What is told outside of a call.

use super::{scene::Scene, *};

#[test]
fn events_say_of_whom_and_what_they_are() {
    let mut scene = Scene::new();
    let name = |newcomer: &mut Newcomer| {
        newcomer.claims.name = "Alice".to_owned();
        newcomer.claims.metadata = "m".to_owned();
        newcomer.claims.video.can_publish_data = Some(false);
    };
    let alice = scene.try_join("alice", name).unwrap();
    scene.transport(alice, TransportEvent::Connected);
    let (sid, track_sid) = (scene.sid(alice), scene.publish_camera(alice));
    scene.signal(alice, Request::Leave(LeaveRequest::default()));
    let room_sid = scene.room.info().sid;
    let events = scene.events();
    let names: Vec<_> = events.iter().map(|event| event.told().name).collect();
    let expected =
        ["room_started", "participant_joined", "track_published", "track_unpublished", "participant_left"];
    assert_eq!(names, expected);
    for event in &events {
        let told = event.told();
        assert_eq!((told.room.name.as_str(), &told.room.sid), ("room", &room_sid), "{}", told.name);
        if let Some(participant) = told.participant {
            assert_eq!((participant.identity.as_str(), &participant.sid), ("alice", &sid), "{}", told.name);
        }
        if let Some(track) = told.track {
            assert_eq!((&track.sid, track.mime_type.as_str()), (&track_sid, "video/VP8"));
            assert_eq!((track.r#type(), track.source()), (TrackType::Video, TrackSource::Camera));
        }
    }
    let states = [(1, State::Active), (4, State::Disconnected)];
    for (index, state) in states {
        let participant = events[index].told().participant.unwrap();
        assert_eq!((participant.name.as_str(), participant.metadata.as_str()), ("Alice", "m"));
        assert!(!participant.permission.as_ref().unwrap().can_publish_data);
        assert_eq!(participant.state(), state);
    }
    assert_eq!(events[4].told().participant.unwrap().disconnect_reason(), DisconnectReason::ClientInitiated);
}

#[test]
fn whom_media_never_reached_did_not_leave() {
    let mut scene = Scene::new();
    let alice = scene.try_join("alice", |_| {}).unwrap();
    scene.signal(alice, Request::Leave(LeaveRequest::default()));
    assert_eq!(scene.events().last().unwrap().told().name, "participant_connection_aborted");
}
