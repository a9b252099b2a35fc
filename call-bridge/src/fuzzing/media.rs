use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use entente_environment::Randomness;
use sha2::{Digest, Sha256};
use str0m::{
    crypto::CryptoProvider,
    ice::{StunMessage, TransId},
};

use super::{
    Time,
    open::{self, TAG},
};
use crate::transport::{
    Certificate, MediaPacket, Mid, Output, Peer, PeerSettings, Renumbered, Transport, TransportEvent,
};

static PROVIDED: OnceLock<Option<(CryptoProvider, Certificate)>> = OnceLock::new();
/// Where we are, and where the client is.
const OURS: ([u8; 4], u16) = ([203, 0, 113, 7], 7_882);
const THEIRS: ([u8; 4], u16) = ([192, 0, 2, 9], 5_000);
/// What a peer connection may want done at once.
const MOST_OUTPUTS: usize = 10_000;
/// Sound and pictures that the client sends, the same that it receives; what each header extension is.
const EXTENSIONS: &str = "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r
a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id\r
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r
a=extmap:9 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r
a=extmap:12 https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension\r
";
const SOUND: &str = "a=rtpmap:111 opus/48000/2\r
a=fmtp:111 minptime=10;useinbandfec=1\r
a=rtpmap:63 red/48000/2\r
a=fmtp:63 111/111\r
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r
";
const PICTURES: &str = "a=rtpmap:96 VP8/90000\r
a=rtcp-fb:96 nack\r
a=rtcp-fb:96 nack pli\r
a=rtcp-fb:96 transport-cc\r
a=rtpmap:97 rtx/90000\r
a=fmtp:97 apt=96\r
";

/// A peer connection that stands, and at the other end of which is a stranger. What comes in is sent back to it.
pub struct MediaConnection {
    peer: Peer,
    time: Time,
    stands: bool,
    /// Packets that were sent back, and those that went out.
    sent: u64,
    left: u64,
    /// Of the stranger's reports.
    index: u32,
}

impl MediaConnection {
    /// One by which sound of the stream 5 comes, pictures of the stream 7, and more of them by their layers' names, `q` and `h`.
    ///
    /// # Panics
    ///
    /// If it does not come to stand.
    pub fn new() -> Option<Self> {
        let provided = PROVIDED.get_or_init(|| {
            let provider = open::provider();
            let certificate = Certificate::of(provider.clone())?;
            Some((provider, certificate))
        });
        let (provider, certificate) = provided.as_ref()?;
        let addresses = [SocketAddr::from(OURS)];
        let randomness = Randomness::from_seed(7);
        let settings = PeerSettings { certificate, addresses: &addresses, prefix: "0000", randomness };
        let time = Time::new();
        let mut connection =
            Self { peer: Peer::new(&settings, time.at()), time, stands: false, sent: 0, left: 0, index: 0 };
        let answer = connection.peer.answer(&offer()).ok()?;
        connection.settle();
        connection.receive(&request(provider, &answer)?);
        connection.receive(&[22; 64]);
        connection.pass(Duration::from_millis(20));
        assert!(connection.stands, "it does not stand: {answer}");
        connection.media(&[0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5, 1, 2, 3]);
        connection.pass(Duration::from_millis(20));
        assert_eq!((connection.sent, connection.left), (1, 1), "sound does not come back: {answer}");
        Some(connection)
    }

    /// The stranger sends a packet of media, but for its proof.
    pub fn media(&mut self, packet: &[u8]) {
        self.receive(&[packet, &TAG].concat());
    }

    /// The stranger sends reports, but for their proof.
    pub fn reports(&mut self, reports: &[u8]) {
        self.index += 1;
        let index = (self.index | 1 << 31).to_be_bytes();
        self.receive(&[reports, &TAG, &index].concat());
    }

    fn receive(&mut self, datagram: &[u8]) {
        self.peer.receive(self.time.at(), THEIRS.into(), OURS.into(), datagram);
        self.settle();
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.time.pass(duration);
        self.peer.advance(self.time.at());
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..MOST_OUTPUTS {
            match self.peer.poll() {
                Output::Wait(at) if at <= self.time.at() => self.peer.advance(self.time.at()),
                Output::Wait(_) => return,
                Output::Event(TransportEvent::Media { mid, packet, .. }) => self.send_back(mid, &packet),
                Output::Event(TransportEvent::Connected) => self.stands = true,
                Output::Datagram { bytes, .. } => self.left += u64::from(is_media(&bytes)),
                Output::Event(_) => {}
            }
        }
        panic!("the peer connection does not come to rest");
    }

    fn send_back(&mut self, mid: Mid, packet: &MediaPacket) {
        self.sent += 1;
        let to = if mid == Mid::from("0") { "2" } else { "3" };
        let renumbered = Renumbered { sequence: self.sent, timestamp: packet.timestamp, patch: None };
        self.peer.send(Mid::from(to), packet, renumbered);
    }
}

/// RTP, and not RTCP (RFC 5761).
fn is_media(datagram: &[u8]) -> bool {
    let [first, second, ..] = datagram else { return false };
    (128..192).contains(first) && !(64..96).contains(&(second & 127))
}

fn offer() -> String {
    let digest = Sha256::digest(open::CERTIFICATE);
    let fingerprint: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let section = |mid: u8, rest: &str| {
        let (kind, types, codecs) =
            if mid.is_multiple_of(2) { ("audio", "111 63", SOUND) } else { ("video", "96 97", PICTURES) };
        format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {types}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=rtcp-mux\r\n{codecs}{EXTENSIONS}{rest}"
        )
    };
    let simulcast = "a=rid:q send\r\na=rid:h send\r\na=simulcast:send q;h\r\n";
    [
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2 3\r\na=ice-ufrag:abcd\r\n",
        "a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:active\r\n",
        &format!("a=fingerprint:sha-256 {}\r\n", fingerprint.join(":")),
        &section(0, "a=sendonly\r\na=msid:s t\r\na=ssrc:5 cname:c\r\n"),
        &section(1, &format!("a=sendonly\r\na=msid:s u\r\n{simulcast}")),
        &section(2, "a=recvonly\r\n"),
        &section(3, "a=recvonly\r\n"),
    ]
    .concat()
}

/// A request of ICE by which the client chooses the way between us.
fn request(provider: &CryptoProvider, answer: &str) -> Option<Vec<u8>> {
    let attribute = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
    let user_name = format!("{}:abcd", attribute("a=ice-ufrag:")?);
    let message = StunMessage::binding_request(&user_name, TransId::new(), true, 1, 1, true);
    let mut bytes = vec![0; 256];
    let hmac = |key: &[u8], parts: &[&[u8]]| provider.sha1_hmac_provider.sha1_hmac(key, parts);
    let password = attribute("a=ice-pwd:")?.as_bytes();
    let length = message.to_bytes(Some(password), &mut bytes, hmac).ok()?;
    bytes.truncate(length);
    Some(bytes)
}
