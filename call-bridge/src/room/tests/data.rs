//! Messages: who gets them, once and in order, also who was not ready or away when they were sent.

use prost::Message as _;

use super::*;
use crate::{
    proto::{DataChannelReceiveState, DataPacket, SyncState, UserPacket},
    session::Path,
};

fn message(sequence: u32, text: &str) -> DataPacket {
    let user = UserPacket { payload: text.as_bytes().to_vec(), ..UserPacket::default() };
    DataPacket { sequence, user: Some(user), ..DataPacket::default() }
}

fn received_state(publisher_sid: String, last_seq: u32) -> DataChannelReceiveState {
    DataChannelReceiveState { publisher_sid, last_seq }
}

impl Scene {
    fn send(&mut self, from: ParticipantKey, channel: DataChannel, packet: &DataPacket) {
        self.transport(from, TransportEvent::Data { channel, bytes: packet.encode_to_vec() });
    }

    fn say_reliably(&mut self, from: ParticipantKey, sequence: u32, text: &str) {
        self.send(from, DataChannel::Reliable, &message(sequence, text));
    }

    /// What was written to somebody's data channels since it was asked last.
    fn read(&mut self, to: ParticipantKey) -> Vec<String> {
        let mut read = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Transport(key, _, Command::SendData(_, bytes)) if *key == to => {
                let user = DataPacket::decode(bytes.as_ref()).unwrap().user.unwrap();
                read.push(String::from_utf8(user.payload).unwrap());
                false
            }
            _ => true,
        });
        read
    }

    /// Somebody comes back by another signalling connection, and has not said yet what it got.
    fn come_back(&mut self, key: ParticipantKey) {
        let participant = self.room.participants.get(&key).unwrap();
        let path = participant.client.path;
        if let Some(connection) = participant.connection {
            self.room.signal_lost(self.now(), key, connection);
        }
        let (identity, sid) = (self.identity(key), self.sid(key));
        let resumed = self.try_join(&identity, |newcomer| {
            newcomer.parameters.path = path;
            newcomer.parameters.resume = Some(sid);
        });
        assert_eq!(resumed, Ok(key));
    }

    fn synchronise(&mut self, key: ParticipantKey, states: Vec<DataChannelReceiveState>) {
        let state = SyncState { datachannel_receive_states: states, ..SyncState::default() };
        self.signal(key, Request::SyncState(state));
    }
}

#[test]
fn data_says_who_sent_it_and_goes_to_whom_it_is_for() {
    let mut scene = Scene::new();
    let (alice, bob, carol) = (scene.join("alice"), scene.join("bob"), scene.join("carol"));
    scene.outputs.clear();
    let packet = DataPacket {
        participant_identity: "carol".to_owned(),
        participant_sid: scene.sid(carol),
        destination_identities: vec!["bob".to_owned()],
        ..message(1, "hello")
    };
    for _ in 0..2 {
        scene.send(alice, DataChannel::Reliable, &packet);
    }
    let sent: Vec<(ParticipantKey, DataPacket)> = scene
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Transport(to, _, Command::SendData(_, bytes)) => {
                Some((*to, DataPacket::decode(bytes.as_ref()).unwrap()))
            }
            _ => None,
        })
        .collect();
    let [(to, received)] = &sent[..] else { panic!("once, and to one: {sent:?}") };
    assert_eq!((*to, received.participant_identity.as_str()), (bob, "alice"));
    assert_eq!(received.participant_sid, scene.sid(alice));
    assert_eq!(received.user.as_ref().unwrap().payload, b"hello");
}

#[test]
fn as_many_can_be_named_as_may_be_here() {
    let options = RoomOptions { maximum_participants: 3, ..RoomOptions::default() };
    let mut scene = Scene::with_options(options);
    let (alice, bob) = (scene.join("alice"), scene.join("bob"));
    let to = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let three = DataPacket { destination_identities: to(&["", "carol", "bob"]), ..message(1, "three") };
    scene.send(alice, DataChannel::Reliable, &three);
    assert_eq!(scene.read(bob), ["three"]);
    let four = DataPacket { destination_identities: to(&["", "", "carol", "bob"]), ..message(2, "four") };
    scene.send(alice, DataChannel::Reliable, &four);
    let mut by_sid = message(3, "four sids");
    by_sid.user.as_mut().unwrap().destination_sids = to(&["", "", "", &scene.sid(bob)]);
    scene.send(alice, DataChannel::Lossy, &by_sid);
    assert!(scene.read(bob).is_empty());
    scene.say_reliably(alice, 4, "all");
    assert_eq!(scene.read(bob), ["all"]);
}

#[test]
fn who_comes_back_gets_what_it_missed() {
    let mut scene = Scene::new();
    let [alice, carol, dave] = ["alice", "carol", "dave"].map(|name| scene.join(name));
    scene.say_reliably(dave, 1, "before bob came");
    let bob = scene.join("bob");
    scene.say_reliably(carol, 1, "too long ago");
    scene.clock.advance(Duration::from_secs(16));
    scene.say_reliably(alice, 1, "first");
    scene.say_reliably(alice, 2, "second");
    assert_eq!(scene.read(bob), ["too long ago", "first", "second"]);

    let to = |identity: &str| vec![identity.to_owned()];
    scene.say_reliably(dave, 2, "of whom bob knows nothing");
    scene.say_reliably(alice, 3, "third");
    scene.send(
        alice,
        DataChannel::Reliable,
        &DataPacket { destination_identities: to("carol"), ..message(4, "secret") },
    );
    let mut by_sid = message(5, "for bob only");
    by_sid.user.as_mut().unwrap().destination_sids = vec![scene.sid(bob)];
    scene.send(alice, DataChannel::Reliable, &by_sid);
    scene.send(alice, DataChannel::Lossy, &message(0, "soon out of date"));
    scene.say_reliably(bob, 1, "his own");
    scene.say_reliably(dave, 3, "last");
    // Bob got none of that.
    scene.read(bob);
    scene.come_back(bob);
    assert!(scene.read(bob).is_empty(), "what he missed is not known yet");
    let states = vec![received_state(scene.sid(alice), 2), received_state("PA_gone".to_owned(), 9)];
    scene.synchronise(bob, states.clone());
    assert_eq!(scene.read(bob), ["of whom bob knows nothing", "third", "for bob only", "last"]);
    scene.synchronise(bob, states);
    assert!(scene.read(bob).is_empty(), "it came already");
    scene.say_reliably(alice, 6, "live");
    assert_eq!(scene.read(bob), ["live"]);

    scene.come_back(bob);
    scene.synchronise(bob, vec![received_state(scene.sid(alice), 6), received_state(scene.sid(dave), 3)]);
    assert!(scene.read(bob).is_empty(), "he has got everything");
}

#[test]
fn whose_channel_opens_late_gets_what_came_since_it_joined() {
    let mut scene = Scene::new();
    let (alice, carol) = (scene.join("alice"), scene.join("carol"));
    scene.say_reliably(alice, 1, "before");
    let bob = scene.try_join("bob", |newcomer| newcomer.parameters.path = Path::Dual).unwrap();
    scene.say_reliably(alice, 2, "first");
    scene.say_reliably(carol, 0, "not counted");
    let aside = DataPacket { destination_identities: vec!["carol".to_owned()], ..message(3, "aside") };
    scene.send(alice, DataChannel::Reliable, &aside);
    scene.say_reliably(alice, 4, "last");
    let open = TransportEvent::ChannelOpen;
    // There he only sends.
    scene.transport(bob, open(DataChannel::Reliable));
    scene.room.transport(scene.now(), bob, PeerKind::Subscriber, open(DataChannel::Lossy));
    scene.collect();
    scene.come_back(bob);
    scene.synchronise(bob, Vec::new());
    assert!(scene.read(bob).is_empty(), "nothing could take it");
    for expected in [&["first", "not counted", "last"][..], &[]] {
        scene.room.transport(scene.now(), bob, PeerKind::Subscriber, open(DataChannel::Reliable));
        scene.collect();
        assert_eq!(scene.read(bob), expected);
    }
    scene.say_reliably(alice, 5, "live");
    assert_eq!(scene.read(bob), ["live"]);
}

#[test]
fn what_is_lossy_is_not_kept_and_waits_for_nothing() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let bob = scene.try_join("bob", |_| {}).unwrap();
    for _ in 0..2 {
        scene.send(alice, DataChannel::Lossy, &message(1, "now"));
    }
    let channels = scene.outputs.iter().filter_map(|output| match output {
        Output::Transport(key, _, Command::SendData(channel, _)) if *key == bob => Some(*channel),
        _ => None,
    });
    assert_eq!(channels.collect::<Vec<_>>(), [DataChannel::Lossy; 2], "numbers mean nothing there");
    scene.read(bob);
    scene.transport(bob, TransportEvent::ChannelOpen(DataChannel::Reliable));
    scene.come_back(bob);
    scene.synchronise(bob, Vec::new());
    assert!(scene.read(bob).is_empty());
}

#[test]
fn who_reads_too_slowly_comes_back_for_the_rest() {
    let mut scene = Scene::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| scene.join(name));
    scene.say_reliably(alice, 1, "one");
    assert_eq!(scene.read(bob), ["one"]);
    scene.say_reliably(alice, 2, "two");
    scene.read(bob);
    scene.room.fell_behind(scene.now(), bob);
    scene.room.fell_behind(scene.now(), bob);
    scene.collect();
    let cut = scene.outputs.iter().filter(|output| matches!(output, Output::CloseSignal(_)));
    assert_eq!(cut.count(), 1);
    assert_eq!(scene.room.participants.get(&bob).unwrap().connection, None, "he has to come back");
    scene.say_reliably(alice, 3, "three");
    scene.send(alice, DataChannel::Lossy, &message(0, "lossy"));
    assert_eq!(scene.read(bob), ["lossy"], "nothing reliable before what is missing");
    assert_eq!(scene.read(carol), ["one", "two", "three", "lossy"], "others notice nothing");

    scene.come_back(bob);
    scene.room.fell_behind(scene.now(), bob);
    scene.collect();
    let cut_again = scene.outputs.iter().filter(|output| matches!(output, Output::CloseSignal(_)));
    assert_eq!(cut_again.count(), 1, "not before he gets something again");
    scene.say_reliably(alice, 4, "four");
    assert!(scene.read(bob).is_empty(), "he has not said what he has got");
    scene.outputs.clear();
    scene.synchronise(bob, vec![received_state(scene.sid(alice), 1)]);
    let first = scene.outputs.iter().find(|output| matches!(output, Output::Transport(..)));
    assert!(matches!(first, Some(Output::Transport(_, _, Command::RenewData))), "{first:?}");
    scene.say_reliably(alice, 5, "five");
    assert_eq!(scene.read(bob), ["two", "three", "four", "five"]);
}
