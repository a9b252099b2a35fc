/// What happens in calls, for whoever runs the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// The first participant came.
    RoomStarted {
        /// The room's name.
        room: String,
    },
    /// A room ended: its last participant is gone and nobody came back, or it was deleted.
    RoomFinished {
        /// The room's name.
        room: String,
    },
    /// A participant can be reached by media.
    ParticipantJoined {
        /// The room's name.
        room: String,
        /// Of the participant, as in its token.
        identity: String,
        /// Of this session of it.
        sid: String,
    },
    /// A participant is gone: it left, was removed or replaced, or did not come back after its connections broke. Also told of
    /// one whom media never reached.
    ParticipantLeft {
        /// The room's name.
        room: String,
        /// Of the participant, as in its token.
        identity: String,
        /// Of this session of it.
        sid: String,
        /// Why, as LiveKit's protocol names it, such as `CLIENT_INITIATED`.
        reason: &'static str,
    },
    /// The first packet of a track came.
    TrackPublished {
        /// The room's name.
        room: String,
        /// Of its publisher.
        identity: String,
        /// The track's id.
        track: String,
        /// What it shows, as LiveKit's protocol names it, such as `SCREEN_SHARE`.
        source: &'static str,
    },
    /// A track is over.
    TrackUnpublished {
        /// The room's name.
        room: String,
        /// Of its publisher.
        identity: String,
        /// The track's id.
        track: String,
    },
}
