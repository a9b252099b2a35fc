use entente_environment::{Clock, SystemClock};
use str0m::{
    channel::ChannelId,
    format::Codec,
    rtp::{ExtensionValues, RtpWrite},
};

use super::{super::red::Redundancy, *};

const OURS: &str = "192.0.2.1:7881";
const THEIRS: &str = "198.51.100.1:5000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A peer and its client. Datagrams go nowhere: all that connects them is TCP.
struct Pair {
    peer: Peer,
    client: Rtc,
    now: Instant,
    /// Packets of media that came from the peer, by their SSRC.
    media: HashMap<[u8; 4], usize>,
    /// The section in which the client sends sound.
    sound: Mid,
    /// The one in which it would receive video.
    video: Option<Mid>,
    /// How often the peer asked for something again.
    asked_again: u64,
    /// The client's data channels, and what came by them.
    channels: HashMap<ChannelId, DataChannel>,
    messages: Vec<(DataChannel, Vec<u8>)>,
}

impl Pair {
    fn new() -> Self {
        Self::with_video(false)
    }

    /// One whose client receives video too, if it is VP8.
    fn with_video(has_video: bool) -> Self {
        let now = SystemClock.monotonic();
        let certificate = Certificate::generate().unwrap();
        let settings = PeerSettings {
            certificate: &certificate,
            addresses: &[address("192.0.2.1:7882")],
            prefix: "0000",
            randomness: Randomness::from_seed(7),
        };
        let mut peer = Peer::new(&settings, now);
        peer.offer_streams(&[address(OURS)]);
        let mut client = Rtc::builder()
            .set_crypto_provider(certificate.provider.clone())
            .set_rtp_mode(true)
            .set_stats_interval(Some(Duration::from_millis(100)))
            .clear_codecs()
            .enable_opus(true, true)
            .enable_vp8(true)
            .build(now);
        let theirs = Candidate::builder().tcp().host(address(THEIRS)).tcptype(TcpType::Active).build();
        client.add_local_candidate(theirs.unwrap());
        let mut api = client.sdp_api();
        api.add_channel(DataChannel::Reliable.label().to_owned());
        api.add_channel_with_config(ChannelConfig {
            label: DataChannel::Lossy.label().to_owned(),
            ordered: false,
            reliability: Reliability::MaxRetransmits { retransmits: 0 },
            ..ChannelConfig::default()
        });
        api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let sound = api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        let video = has_video.then(|| api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None));
        let (offer, pending) = api.apply().unwrap();
        let answer = peer.answer(&offer.to_sdp_string()).unwrap();
        assert!(answer.contains("tcptype passive"), "{answer}");
        client.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        Self {
            peer,
            client,
            now,
            media: HashMap::new(),
            sound,
            video,
            asked_again: 0,
            channels: HashMap::new(),
            messages: Vec::new(),
        }
    }

    /// Lets ten milliseconds pass, in which the client is there or not. Answers what happened on the peer.
    fn step(&mut self, client_is_there: bool) -> Vec<TransportEvent> {
        self.client.handle_input(Input::Timeout(self.now)).unwrap();
        self.peer.advance(self.now);
        self.poll_client(client_is_there);
        let mut events = Vec::new();
        loop {
            match self.peer.poll() {
                Output::Wait(_) => break,
                Output::Datagram { carrier, source, destination, bytes } => {
                    let way = (carrier, source, destination);
                    assert_eq!(way, (Carrier::Stream, address(OURS), address(THEIRS)));
                    self.count(&bytes);
                    let datagram = Receive::new(Protocol::Tcp, source, destination, &bytes).unwrap();
                    if client_is_there {
                        self.client.handle_input(Input::Receive(self.now, datagram)).unwrap();
                        self.poll_client(client_is_there);
                    }
                }
                Output::Event(event) => events.push(event),
            }
        }
        self.now += Duration::from_millis(10);
        events
    }

    fn poll_client(&mut self, client_is_there: bool) {
        loop {
            match self.client.poll_output().unwrap() {
                str0m::Output::Timeout(_) => break,
                str0m::Output::Transmit(sent) if sent.proto == Protocol::Tcp && client_is_there => {
                    self.peer.receive_by_stream(self.now, sent.source, sent.destination, &sent.contents);
                }
                str0m::Output::Event(Event::MediaEgressStats(stats)) => self.asked_again += stats.nacks,
                str0m::Output::Event(Event::ChannelOpen(id, label)) => {
                    self.channels.insert(id, DataChannel::of_label(&label).unwrap());
                }
                str0m::Output::Event(Event::ChannelData(data)) => {
                    self.messages.push((self.channels[&data.id], data.data));
                }
                _ => {}
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        let [first, second, ..] = bytes else { return };
        // RTP, and not RTCP (RFC 5761).
        let is_media = (128..192).contains(first) && !(64..96).contains(&(second & 127));
        if let Some(ssrc) = bytes.get(8..12).filter(|_| is_media) {
            *self.media.entry(ssrc.try_into().unwrap()).or_default() += 1;
        }
    }

    /// Lets time pass until something happens that is looked for.
    fn until(&mut self, client_is_there: bool, looked_for: fn(&TransportEvent) -> bool) -> Option<Duration> {
        let began = self.now;
        while self.now - began < Duration::from_secs(20) {
            if self.step(client_is_there).iter().any(looked_for) {
                return Some(self.now - began);
            }
        }
        None
    }
}

#[test]
fn a_client_that_sends_no_datagrams_connects_by_a_stream() {
    let mut pair = Pair::new();
    let opened = pair.until(true, |event| matches!(event, TransportEvent::ChannelOpen(_)));
    assert!(opened.is_some(), "the data channel does not open");
}

#[test]
fn who_falls_silent_is_away_until_heard_again() {
    let mut pair = Pair::new();
    pair.until(true, |event| matches!(event, TransportEvent::ChannelOpen(_))).unwrap();
    let is_away = |event: &TransportEvent| matches!(event, TransportEvent::Disconnected);
    assert_eq!(pair.until(true, is_away), None, "somebody who only asks whether we are there is away");
    let after = pair.until(false, is_away).unwrap();
    assert!(after <= SILENT_AFTER + Duration::from_millis(20), "away after {after:?}");
    let back = pair.until(true, |event| matches!(event, TransportEvent::Connected));
    assert!(back.is_some(), "nobody noticed that it is back");
    assert_eq!(pair.until(true, is_away), None);
}
#[test]
fn nothing_comes_into_an_audio_section_but_its_stream() {
    let mut pair = Pair::new();
    pair.until(true, |event| matches!(event, TransportEvent::ChannelOpen(_))).unwrap();
    pair.peer.set_bitrates(1_000_000, 5_000_000);
    pair.until(true, |_| false);
    assert_eq!(pair.media, HashMap::new());
}

/// A message of so many KiB that begins with a number.
fn numbered(number: u32, size: usize) -> Arc<[u8]> {
    let mut bytes = vec![0; size * 1_024];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// A pair both of whose channels are open.
fn with_channels() -> Pair {
    let mut pair = Pair::new();
    for _ in 0..2_000 {
        if pair.channels.len() == 2 {
            break;
        }
        pair.step(true);
    }
    pair
}

/// The numbers of the messages that came by a channel.
fn numbers(pair: &Pair, channel: DataChannel) -> Vec<u32> {
    let of_channel = pair.messages.iter().filter(|(other, _)| *other == channel);
    of_channel.map(|(_, bytes)| u32::from_be_bytes(bytes[..4].try_into().unwrap())).collect()
}

#[test]
fn a_flood_of_what_is_lossy_leaves_room_for_what_is_reliable() {
    let mut pair = with_channels();
    // The client reads nothing for a while.
    for number in 0..200 {
        assert!(
            pair.peer.send_data(DataChannel::Lossy, &numbered(number, 16)),
            "it is lost, and nobody cut off"
        );
    }
    let reliable = 0..100_u32;
    for number in reliable.clone() {
        assert!(pair.peer.send_data(DataChannel::Reliable, &numbered(number, 16)), "no room for {number}");
        assert!(pair.peer.send_data(DataChannel::Lossy, &numbered(1_000 + number, 16)));
        pair.step(false);
    }
    for _ in 0..2_000 {
        pair.step(true);
    }
    assert_eq!(numbers(&pair, DataChannel::Reliable), reliable.collect::<Vec<_>>());
    // 16 of them fit.
    let lossy = numbers(&pair, DataChannel::Lossy);
    assert!(!lossy.is_empty() && lossy.len() <= 16, "{lossy:?}");
}

#[test]
fn what_waits_is_overtaken_by_nothing_reliable_only() {
    let mut pair = with_channels();
    // Three of the large ones fit, and then there is room for a small one.
    let sizes = std::iter::repeat_n(200, 4).chain(std::iter::repeat_n(16, 16));
    for (number, size) in (0..).zip(sizes) {
        assert!(pair.peer.send_data(DataChannel::Reliable, &numbered(number, size)));
    }
    pair.peer.send_data(DataChannel::Lossy, &numbered(0, 16));
    for _ in 0..2_000 {
        pair.step(true);
    }
    assert_eq!(numbers(&pair, DataChannel::Reliable), (0..20).collect::<Vec<_>>());
    assert_eq!(numbers(&pair, DataChannel::Lossy), [0]);
}

#[test]
fn who_reads_too_slowly_gets_nothing_out_of_order() {
    let mut pair = with_channels();
    let took = |pair: &mut Pair, number| pair.peer.send_data(DataChannel::Reliable, &numbered(number, 16));
    let taken = (0..1_000).find(|number| !took(&mut pair, *number)).expect("there is an end to what waits");
    for _ in 0..2_000 {
        pair.step(true);
    }
    assert!(!took(&mut pair, taken + 1), "something is missing before it");
    let came = numbers(&pair, DataChannel::Reliable);
    assert!(came.len() < usize::try_from(taken).unwrap());
    pair.peer.renew_data();
    let missed = u32::try_from(came.len()).unwrap()..taken + 2;
    assert!(missed.clone().all(|number| took(&mut pair, number)));
    for _ in 0..2_000 {
        pair.step(true);
    }
    assert_eq!(numbers(&pair, DataChannel::Reliable), (0..taken + 2).collect::<Vec<_>>());
}

#[test]
fn what_the_other_side_cannot_decode_is_told_once() {
    let mut pair = Pair::with_video(true);
    pair.until(true, |event| matches!(event, TransportEvent::ChannelOpen(_))).unwrap();
    let video = pair.video.unwrap();
    let mut told = |codec: Codec, from: u64| {
        let known = pair.peer.rtc.codec_config().params().iter();
        let parameters = *known.clone().find(|known| known.spec().codec == codec).unwrap();
        let mut times = Vec::new();
        for sequence in from..from + 300 {
            let packet = MediaPacket {
                codec: codec.into(),
                parameters: Some(parameters),
                sequence,
                timestamp: 0,
                marker: true,
                payload: b"picture"[..].into(),
                audio_level: None,
                extensions: ExtensionValues::default(),
                received_at: pair.now,
                clock: None,
                is_encrypted: false,
            };
            pair.peer.send(video, &packet, Renumbered { sequence, timestamp: 0, patch: None });
            let told = pair
                .step(true)
                .into_iter()
                .filter(|event| matches!(event, TransportEvent::Undecodable { mid } if *mid == video));
            times.extend(told.map(|_| sequence - from));
        }
        times
    };
    assert_eq!(told(Codec::Vp8, 1), [0; 0]);
    let times = told(Codec::Vp9, 301);
    assert!(matches!(times[..], [100..=102]), "after a second: {times:?}");
    assert_eq!(told(Codec::Vp8, 601), [0; 0]);
}

#[test]
fn what_is_missing_of_sound_is_asked_for_again() {
    let mut pair = Pair::new();
    pair.until(true, |event| matches!(event, TransportEvent::ChannelOpen(_))).unwrap();
    let opus = pair.client.codec_config().find(|known| known.spec().codec.is_audio()).unwrap().pt();
    let mut came = Vec::new();
    for (sequence, asked_again) in [(10_u64, false), (11, false), (13, true), (12, true)] {
        let mut direct = pair.client.direct_api();
        let stream = direct.stream_tx_by_mid(pair.sound, None).unwrap();
        let time = u32::try_from(sequence).unwrap() * 960;
        stream.write_rtp(RtpWrite::new(opus, sequence.into(), time, pair.now, *b"sound"));
        for _ in 0..30 {
            for event in pair.step(true) {
                if let TransportEvent::Media { packet, .. } = event {
                    came.push(packet.sequence);
                }
            }
        }
        assert_eq!(pair.asked_again > 0, asked_again, "after packet {sequence}");
    }
    assert_eq!(came, [10, 11, 13, 12], "what comes again is taken");
}

#[test]
fn what_is_lost_comes_along_with_what_follows() {
    let Pair { mut peer, now, .. } = Pair::new();
    let opus = *peer.rtc.codec_config().find(|known| known.spec().codec.is_audio()).unwrap();
    let mut redundancy = Redundancy::default();
    let sent = (100..105_u32).map(|sequence| {
        let text: Arc<[u8]> = sequence.to_string().into_bytes().into();
        MediaPacket {
            codec: opus.spec().codec.into(),
            parameters: Some(opus),
            sequence: sequence.into(),
            timestamp: sequence * 960,
            marker: false,
            payload: redundancy.wrap(*opus.pt(), sequence * 960, &text),
            audio_level: Some(10),
            extensions: ExtensionValues::default(),
            received_at: now,
            clock: None,
            is_encrypted: false,
        }
    });
    let sent: Vec<MediaPacket> = sent.collect();
    let (ssrc, mid) = (Ssrc::from(7), Mid::from("0"));
    let mut came = Vec::new();
    // The third and the fourth are missing; the fourth was only late, and comes twice.
    for index in [0, 1, 4, 3, 3] {
        let unwrapped = peer.unwrap(ssrc, mid, None, sent[index].clone());
        for event in peer.recovered.drain(..) {
            let TransportEvent::Media { packet, .. } = event else { panic!("{event:?}") };
            came.push(packet);
        }
        came.extend(unwrapped);
    }
    let came: Vec<(u64, u32, &[u8])> =
        came.iter().map(|packet| (packet.sequence, packet.timestamp / 960, &packet.payload[..])).collect();
    assert_eq!(
        came,
        [
            (100, 100, &b"100"[..]),
            (101, 101, &b"101"[..]),
            (102, 102, &b"102"[..]),
            (103, 103, &b"103"[..]),
            (104, 104, &b"104"[..]),
        ]
    );
}
