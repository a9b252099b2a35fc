//! What participants are told of each other, and how often.

use std::time::Duration;

use super::{super::*, scene::Scene};
use crate::{
    proto::{
        AddTrackRequest, LeaveRequest, SubscribedQualityUpdate, SubscriptionError, TrackSource, TrackType,
        UpdateLocalVideoTrack, UpdateParticipantMetadata, UpdateTrackSettings,
        signal_request::Message as Request,
    },
    transport::{Figures, MediaCodec, MediaPacket, TransportEvent},
};

/// How many of three qualities were said to be wanted last, if anything was said.
fn wanted(scene: &mut Scene, publisher: ParticipantKey) -> Option<usize> {
    scene.said(publisher).into_iter().rev().find_map(|message| match message {
        Message::SubscribedQualityUpdate(SubscribedQualityUpdate { subscribed_qualities, .. }) => {
            Some(subscribed_qualities.iter().filter(|quality| quality.enabled).count())
        }
        _ => None,
    })
}

#[test]
fn a_video_that_nobody_asks_for_is_not_wanted() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.publish_camera(alice);
    scene.pass(Duration::from_secs(9));
    assert_eq!(wanted(&mut scene, alice), None, "somebody may be about to come");
    scene.pass(Duration::from_secs(2));
    assert_eq!(wanted(&mut scene, alice), Some(0));
    scene.watch("bob");
    assert_eq!(wanted(&mut scene, alice), Some(3), "at once");
}

#[test]
fn what_only_those_wanted_who_left_is_not_wanted_any_more() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let track = scene.publish_camera(alice);
    let (bob, carol) = (scene.watch("bob"), scene.watch("carol"));
    let settings = UpdateTrackSettings { track_sids: vec![track], width: 100, ..Default::default() };
    scene.signal(carol, Request::TrackSetting(settings));
    scene.stream(alice, 10, 300, false);
    assert_eq!(wanted(&mut scene, alice), Some(3));
    scene.signal(bob, Request::Leave(LeaveRequest::default()));
    scene.stream(alice, 310, 300, false);
    assert_eq!(wanted(&mut scene, alice), Some(1));
    scene.signal(carol, Request::Leave(LeaveRequest::default()));
    scene.stream(alice, 610, 300, false);
    assert_eq!(wanted(&mut scene, alice), Some(0));
}

#[test]
fn who_changes_all_the_time_is_told_of_now_and_then() {
    let mut scene = Scene::new();
    let may = |newcomer: &mut Newcomer| newcomer.claims.video.can_update_own_metadata = Some(true);
    let (alice, bob) = (scene.try_join("alice", may).unwrap(), scene.join("bob"));
    scene.pass(Duration::from_secs(5));
    scene.said(bob);
    let change = |number: u32| {
        let metadata = number.to_string();
        Request::UpdateMetadata(UpdateParticipantMetadata { metadata, ..Default::default() })
    };
    for number in 0..500 {
        scene.signal(alice, change(number));
        scene.pass(Duration::from_millis(20));
    }
    scene.pass(Duration::from_secs(1));
    let told = scene.updates(bob);
    let seconds = 50; // A tick is a tenth.
    assert!((20..=8 + 2 * seconds + 2).contains(&told.len()), "told {} times", told.len());
    assert!(told.is_sorted_by_key(|info| info.version));
    assert_eq!(told.last().unwrap().metadata, "499", "the last is not lost");
    let said = scene.said(alice);
    let answers = said.iter().filter(|message| matches!(message, Message::RequestResponse(_)));
    assert_eq!(answers.count(), 500);
}

#[test]
fn everybody_learns_how_many_there_are() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.pass(Duration::from_secs(6));
    let counts = |scene: &mut Scene| {
        let said = scene.said(alice).into_iter().filter_map(|message| match message {
            Message::RoomUpdate(update) => update.room.map(|room| room.num_participants),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    counts(&mut scene);
    for name in ["bob", "carol", "dave"] {
        scene.join(name);
    }
    scene.pass(Duration::from_secs(20));
    assert_eq!(counts(&mut scene), [4], "once");
}

#[test]
fn who_comes_late_learns_who_speaks_and_how_the_others_fare() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let request = AddTrackRequest {
        cid: "mic".to_owned(),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        ..AddTrackRequest::default()
    };
    scene.signal(alice, Request::AddTrack(request));
    scene.offer(alice, 1, &[("audio", "a=msid:- mic\r\na=sendonly")]);
    let bad = Figures { loss_from: Some(0.5), ..Figures::default() };
    scene.transport(alice, TransportEvent::Figures(bad));
    for sequence in 1..400 {
        scene.clock.advance(Duration::from_millis(20));
        scene.sound(alice, sequence, 10);
        scene.room.advance(scene.now());
    }
    let bob = scene.join("bob");
    let (sid, said) = (scene.sid(alice), scene.said(bob));
    let speaks = said.iter().any(|message| match message {
        Message::SpeakersChanged(changed) => {
            changed.speakers.iter().any(|speaker| speaker.sid == sid && speaker.active)
        }
        _ => false,
    });
    assert!(speaks, "{said:?}");
    let is_poor = said.iter().any(|message| match message {
        Message::ConnectionQuality(told) => told.updates.iter().any(|update| {
            update.participant_sid == sid && update.quality() == crate::proto::ConnectionQuality::Poor
        }),
        _ => false,
    });
    assert!(is_poor, "{said:?}");
}

#[test]
fn what_is_muted_goes_to_nobody() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let sid = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.stream(alice, 10, 20, true);
    let before = scene.received(bob);
    assert!(!before.is_empty());
    // Its client does not care.
    scene.room.mute_track("alice", &sid, true).unwrap();
    scene.stream(alice, 30, 20, true);
    assert!(scene.received(bob).is_empty());
    scene.room.mute_track("alice", &sid, false).unwrap();
    scene.stream(alice, 51, 5, false);
    assert!(scene.received(bob).is_empty(), "nothing can be decoded without a keyframe");
    scene.stream(alice, 60, 5, true);
    let after = scene.received(bob);
    assert_eq!(after.first().unwrap().sequence, before.last().unwrap().sequence + 1, "without a gap");
}

#[test]
fn sound_goes_on_without_a_gap_after_it_was_muted() {
    let mut forwarder = crate::forwarding::Forwarder::new(9);
    forwarder.set_target(Some(0));
    let scene = Scene::new();
    let packet = |sequence| MediaPacket {
        codec: MediaCodec::Opus,
        ..super::scene::vp8(scene.now().at, sequence, true)
    };
    assert_eq!(forwarder.forward(0, &packet(1)).unwrap().sequence, 10);
    for sequence in 2..300 {
        forwarder.leave_out(&packet(sequence));
    }
    assert_eq!(forwarder.forward(0, &packet(300)).unwrap().sequence, 11);
}

#[test]
fn who_has_no_decoder_is_told() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let sid = scene.publish_camera(alice);
    let bob = scene.watch("bob");
    scene.said(bob);
    scene.transport(bob, TransportEvent::Undecodable { mid: "0".into() });
    let said = scene.said(bob);
    let [Message::SubscriptionResponse(response)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((&response.track_sid, response.err()), (&sid, SubscriptionError::SeCodecUnsupported));
}

#[test]
fn a_track_that_is_announced_can_be_described_better() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.signal(alice, Request::AddTrack(super::scene::camera("cam")));
    let said = scene.said(alice);
    let sid = said.iter().find_map(|message| match message {
        Message::TrackPublished(published) => published.track.as_ref().map(|track| track.sid.clone()),
        _ => None,
    });
    let update = UpdateLocalVideoTrack { track_sid: sid.unwrap(), width: 77, height: 33 };
    scene.signal(alice, Request::UpdateVideoTrack(update));
    scene.publish_camera(alice);
    let track = scene.room.get_participant("alice").unwrap().tracks.first().unwrap().clone();
    assert_eq!((track.width, track.height), (77, 33));
}
