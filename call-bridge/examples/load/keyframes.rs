//! Requests for key frames. The stack keeps what the other side reports to itself; these alone are for who makes pictures.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use rtc::{
    interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication,
    sansio::Protocol,
    shared::error::Error,
};

/// Notes of which streams a key frame is asked for (RFC 4585, section 6.3.1), and lets everything through.
#[derive(Default)]
pub(crate) struct KeyframeRequests {
    noted: Arc<Mutex<BTreeSet<u32>>>,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

impl KeyframeRequests {
    /// One that notes SSRCs here.
    pub(crate) fn new(noted: Arc<Mutex<BTreeSet<u32>>>) -> Self {
        Self { noted, ..Self::default() }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for KeyframeRequests {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, packet: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(reports) = &packet.message.packet {
            let lost =
                reports.iter().filter_map(|report| report.as_any().downcast_ref::<PictureLossIndication>());
            self.noted.lock().extend(lost.map(|lost| lost.media_ssrc));
        }
        self.reads.push_back(packet);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }

    fn handle_write(&mut self, packet: TaggedPacket) -> Result<(), Error> {
        self.writes.push_back(packet);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }
}

impl Interceptor for KeyframeRequests {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
