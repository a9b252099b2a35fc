use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use str0m::{
    format::{Codec, PayloadParams},
    rtp::{ExtensionValues, Vp8Patch},
};

/// How media is encoded, as far as forwarding cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaCodec {
    /// Sound.
    Opus,
    /// Pictures in up to three separate streams.
    Vp8,
    /// Pictures in up to three separate streams.
    H264,
    /// Pictures in one stream of layers.
    Vp9,
    /// Pictures in one stream of layers.
    Av1,
    /// Something that is forwarded as it is.
    Other,
}

impl MediaCodec {
    /// The media type, as track descriptions name it.
    pub(crate) fn mime_type(self) -> &'static str {
        match self {
            Self::Opus => "audio/opus",
            Self::Vp8 => "video/VP8",
            Self::H264 => "video/H264",
            Self::Vp9 => "video/VP9",
            Self::Av1 => "video/AV1",
            Self::Other => "",
        }
    }

    /// Ticks of its RTP timestamps in a second.
    pub(crate) fn clock_rate(self) -> u32 {
        if self == Self::Opus { 48_000 } else { 90_000 }
    }
}

impl From<Codec> for MediaCodec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Opus => Self::Opus,
            Codec::Vp8 => Self::Vp8,
            Codec::H264 => Self::H264,
            Codec::Vp9 => Self::Vp9,
            Codec::Av1 => Self::Av1,
            _ => Self::Other,
        }
    }
}

/// From a sender report: which RTP timestamp belongs to which time of the sender's clock (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SenderClock {
    /// The sender's time.
    pub(crate) at: SystemTime,
    /// The RTP timestamp at that time.
    pub(crate) timestamp: u32,
}

/// An RTP packet without what belongs to one hop only, as it came.
#[derive(Clone)]
pub(crate) struct MediaPacket {
    /// How it is encoded.
    pub(crate) codec: MediaCodec,
    /// The negotiated parameters of that, by which the payload type of the next hop is found. `None` in tests.
    pub(crate) parameters: Option<PayloadParams>,
    /// The sequence number, extended beyond 16 bits.
    pub(crate) sequence: u64,
    /// The RTP timestamp.
    pub(crate) timestamp: u32,
    /// The last packet of a frame of video; the first after silence in audio.
    pub(crate) marker: bool,
    /// What is forwarded untouched, but for [`Renumbered::patch`].
    pub(crate) payload: Arc<[u8]>,
    /// How loud it is, in -dBov from 0, the loudest, to 127, silence (RFC 6464).
    pub(crate) audio_level: Option<u8>,
    /// Header extensions that go from end to end.
    pub(crate) extensions: ExtensionValues,
    /// When it came in.
    pub(crate) received_at: Instant,
    /// From the newest report of its sender.
    pub(crate) clock: Option<SenderClock>,
    /// Whether its payload is encrypted between the clients.
    pub(crate) is_encrypted: bool,
}

/// What of a packet is different for each receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renumbered {
    /// The sequence number, extended beyond 16 bits.
    pub(crate) sequence: u64,
    /// The RTP timestamp.
    pub(crate) timestamp: u32,
    /// Bytes of the payload descriptor.
    pub(crate) patch: Option<Vp8Patch>,
}

impl std::fmt::Debug for MediaPacket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("MediaPacket")
            .field("codec", &self.codec)
            .field("sequence", &self.sequence)
            .field("timestamp", &self.timestamp)
            .field("marker", &self.marker)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}
