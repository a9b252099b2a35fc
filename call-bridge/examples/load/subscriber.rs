//! A participant that gets everything that is published.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_environment::{Clock, Environment};
use parking_lot::Mutex;
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use tokio::sync::watch;

use crate::{
    Failure,
    bridge::Bridge,
    client::{Client, Happening},
    media::{Video, read_sound},
    peer::Purpose,
    proto::{
        ParticipantInfo, SessionDescription, TrackType, UpdateTrackSettings, VideoQuality, signal_request,
        signal_response::Message,
    },
    received::{Arrival, Received},
    signalling::Path,
};

/// How often it is looked at whether another quality is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a subscriber is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Get video up to this quality.
    Quality(VideoQuality),
    /// Leave.
    Over,
}

/// A subscriber that has joined.
pub(crate) struct Subscriber {
    client: Client,
    videos: BTreeSet<String>,
    asked: BTreeSet<(String, i32)>,
    received: Arc<Mutex<Received>>,
    started: Instant,
    clock: Arc<dyn Clock>,
}

impl Subscriber {
    /// Joins and connects; `started` is as for publishers.
    pub(crate) async fn join(
        bridge: &Bridge,
        environment: &Environment,
        index: usize,
        feedback: bool,
        started: Instant,
    ) -> Result<Self, Failure> {
        let identity = format!("subscriber-{index}");
        let purpose = Purpose::Receiving { feedback };
        let (client, response) =
            Client::join(bridge, environment, &identity, Path::Subscribing, purpose).await?;
        let clock = environment.clock().clone();
        let mut subscriber = Self {
            client,
            videos: BTreeSet::new(),
            asked: BTreeSet::new(),
            received: Arc::default(),
            started,
            clock,
        };
        subscriber.learn(&response.other_participants);
        let connect_by = subscriber.client.connect_by();
        while !subscriber.client.peer.connected {
            match subscriber.client.next(connect_by).await? {
                Happening::Due => return Err("a subscriber does not connect".into()),
                happening => subscriber.react(happening).await?,
            }
        }
        Ok(subscriber)
    }

    /// What it got so far.
    pub(crate) fn received(&self) -> Arc<Mutex<Received>> {
        self.received.clone()
    }

    /// Receives as wished until it is to leave.
    pub(crate) async fn run(mut self, mut wish: watch::Receiver<Wish>) -> Result<(), Failure> {
        loop {
            let Wish::Quality(quality) = *wish.borrow_and_update() else { return Ok(()) };
            self.ask_for(quality).await?;
            let until = self.clock.monotonic() + LOOK_EVERY;
            loop {
                match self.client.next(until).await? {
                    Happening::Due => break,
                    happening => self.react(happening).await?,
                }
            }
        }
    }

    /// Asks for a quality of each video, once.
    async fn ask_for(&mut self, quality: VideoQuality) -> Result<(), Failure> {
        for video in &self.videos {
            self.asked.retain(|(track, asked)| track != video || *asked == i32::from(quality));
            if self.asked.insert((video.clone(), quality.into())) {
                let settings = UpdateTrackSettings {
                    track_sids: vec![video.clone()],
                    quality: quality.into(),
                    ..UpdateTrackSettings::default()
                };
                self.client.signalling.say(signal_request::Message::TrackSetting(settings)).await?;
            }
        }
        Ok(())
    }

    async fn react(&mut self, happening: Happening) -> Result<(), Failure> {
        match happening {
            Happening::Said(Message::Offer(offer)) => {
                let sdp = self.client.peer.answer(offer.sdp)?;
                let answer = SessionDescription {
                    r#type: "answer".to_owned(),
                    sdp,
                    id: offer.id,
                    ..SessionDescription::default()
                };
                self.client.signalling.say(signal_request::Message::Answer(answer)).await?;
            }
            Happening::Said(Message::Trickle(trickle)) => {
                self.client.peer.take_candidate(&trickle.candidate_init)?;
            }
            Happening::Said(Message::Update(update)) => self.learn(&update.participants),
            Happening::Said(Message::Leave(leave)) => return Err(format!("thrown out: {leave:?}").into()),
            Happening::Came(tagged) => self.count(tagged),
            Happening::Said(_) | Happening::Connected | Happening::Due => {}
        }
        Ok(())
    }

    fn learn(&mut self, participants: &[ParticipantInfo]) {
        let tracks = participants.iter().flat_map(|participant| &participant.tracks);
        let videos = tracks.filter(|track| track.r#type() == TrackType::Video);
        self.videos.extend(videos.map(|track| track.sid.clone()));
    }

    fn count(&mut self, tagged: TaggedRTCMessage) {
        let RTCMessage::RtpPacket(_, packet) = tagged.message else { return };
        let video = Video::read(&packet.payload);
        let sent = video.map(|video| video.sent).or_else(|| read_sound(&packet.payload));
        // What else comes is padding, with which the bridge tries what the path carries.
        let Some(sent) = sent else { return };
        self.received.lock().count(&Arrival {
            ssrc: packet.header.ssrc,
            sequence: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            bytes: packet.payload.len(),
            clock_rate: if video.is_some() { 90_000 } else { 48_000 },
            sent,
            arrived: tagged.now - self.started,
            video,
        });
    }
}
