use std::fmt;

use crate::proto::{ParticipantInfo, Room, TrackInfo};

/// What happens in calls, for whoever runs the bridge. Rooms, participants and tracks are told of as LiveKit's webhooks do it; at a `LiveKit`
/// server elsewhere only their names and ids are known.
#[derive(Clone, Debug, PartialEq)]
pub enum CallEvent {
    /// The first participant came.
    RoomStarted {
        /// Which.
        room: Box<Room>,
    },
    /// A room ended: its last participant is gone and nobody came back, or it was deleted.
    RoomFinished {
        /// Which.
        room: Box<Room>,
    },
    /// A participant can be reached by media.
    ParticipantJoined {
        /// Where.
        room: Box<Room>,
        /// Who.
        participant: Box<ParticipantInfo>,
    },
    /// A participant is gone: it left, was removed or replaced, or did not come back after its connections broke. Also told of
    /// one whom media never reached.
    ParticipantLeft {
        /// Where.
        room: Box<Room>,
        /// Who, without tracks.
        participant: Box<ParticipantInfo>,
        /// Whether media ever reached it: then it was told that it joined.
        was_reached: bool,
        /// Why, as LiveKit's protocol names it, such as `CLIENT_INITIATED`.
        reason: &'static str,
    },
    /// The first packet of a track came.
    TrackPublished {
        /// Where.
        room: Box<Room>,
        /// Of whom: only its ids.
        participant: Box<ParticipantInfo>,
        /// What.
        track: Box<TrackInfo>,
    },
    /// A track is over.
    TrackUnpublished {
        /// Where.
        room: Box<Room>,
        /// Of whom: only its ids.
        participant: Box<ParticipantInfo>,
        /// What.
        track: Box<TrackInfo>,
    },
}

/// An event as LiveKit's webhooks tell it.
pub(crate) struct Told<'a> {
    pub(crate) name: &'static str,
    pub(crate) room: &'a Room,
    pub(crate) participant: Option<&'a ParticipantInfo>,
    pub(crate) track: Option<&'a TrackInfo>,
}

impl CallEvent {
    /// What is told of it.
    pub(crate) fn told(&self) -> Told<'_> {
        let of_room = |name, room| Told { name, room, participant: None, track: None };
        match self {
            Self::RoomStarted { room } => of_room("room_started", room),
            Self::RoomFinished { room } => of_room("room_finished", room),
            Self::ParticipantJoined { room, participant } => {
                Told { participant: Some(participant), ..of_room("participant_joined", room) }
            }
            Self::ParticipantLeft { room, participant, was_reached, .. } => {
                let name = if *was_reached { "participant_left" } else { "participant_connection_aborted" };
                Told { participant: Some(participant), ..of_room(name, room) }
            }
            Self::TrackPublished { room, participant, track } => Told {
                participant: Some(participant),
                track: Some(track),
                ..of_room("track_published", room)
            },
            Self::TrackUnpublished { room, participant, track } => Told {
                participant: Some(participant),
                track: Some(track),
                ..of_room("track_unpublished", room)
            },
        }
    }
}

impl fmt::Display for CallEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { name, room, participant, track } = self.told();
        write!(formatter, "{name} in {}", room.name)?;
        if let Some(participant) = participant {
            write!(formatter, ": {} {}", participant.identity, participant.sid)?;
        }
        track.map_or(Ok(()), |track| write!(formatter, " {}", track.sid))?;
        match self {
            Self::ParticipantLeft { reason, .. } => write!(formatter, " {reason}"),
            _ => Ok(()),
        }
    }
}
