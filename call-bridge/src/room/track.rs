use std::time::Instant;

use super::ParticipantKey;
use crate::{
    forwarding::Layers,
    proto::{TrackInfo, TrackSource, VideoQuality},
    session::MediaLabel,
    transport::{MediaCodec, MediaKind, Mid},
};

/// Something that a participant sends.
pub(super) struct Track {
    pub(super) publisher: ParticipantKey,
    pub(super) kind: MediaKind,
    /// The section in which it comes.
    pub(super) mid: Mid,
    pub(super) info: TrackInfo,
    /// How it is encoded, known from its first packet on.
    pub(super) codec: Option<MediaCodec>,
    pub(super) layers: Layers,
    /// Who subscribes to it.
    pub(super) subscribers: Vec<ParticipantKey>,
    pub(super) demand: Demand,
}

/// What the publisher was told of how much of a video is wanted.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// The best quality that anybody wants, as told; the inner `None` is nothing at all.
    #[expect(clippy::option_option, reason = "told that nothing is wanted is not the same as not told yet")]
    pub(super) told: Option<Option<VideoQuality>>,
    /// When it is told that less is wanted.
    pub(super) lower_at: Option<Instant>,
}

impl Track {
    /// Whether media came; only then others are told.
    pub(super) fn is_live(&self) -> bool {
        self.codec.is_some()
    }

    /// What it is called in session descriptions: streams of one name are played in step.
    pub(super) fn label(&self, publisher_sid: &str) -> MediaLabel {
        MediaLabel { stream: format!("{publisher_sid}|{}", self.info.stream), track: self.info.sid.clone() }
    }

    /// How important it is to have some of it: screens are read, faces are seen.
    pub(super) fn importance(&self) -> u32 {
        match self.info.source() {
            TrackSource::ScreenShare => 2_000,
            _ => 0,
        }
    }
}
