//! Messages: who gets them, once and in order, also who was not ready or away when they were sent.

use prost::Message as _;

use super::*;
use crate::proto::{DataPacket, UserPacket};

fn message(sequence: u32, text: &str) -> DataPacket {
    let user = UserPacket { payload: text.as_bytes().to_vec(), ..UserPacket::default() };
    DataPacket { sequence, user: Some(user), ..DataPacket::default() }
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
