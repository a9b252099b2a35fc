use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    net::SocketAddr,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use entente_environment::Environment;
use prost::Message as _;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    Command, Rooms, Sink,
    datagrams::{Datagram, Route, Stream, prefix},
    others::Others,
    outgoing::Outgoing,
    peers::{PeerKey, Peers, RoomKey},
    receiving::Receiver,
    rounds::Rounds,
    sockets::Sockets,
};
use crate::{
    CallEvent, Settings,
    proto::{DisconnectReason, SignalRequest, SignalResponse, leave_request::Action},
    room::{
        self, ConnectionKey, Moment, Newcomer, Output as RoomOutput, ParticipantKey, PeerKind, Refusal, leave,
    },
    transport::{Carrier, Certificate, Guarded, Output, Peer, PeerSettings, Transport},
};

/// How often it is looked at whether there is something to do, if nothing comes.
const IDLE: Duration = Duration::from_secs(60);
/// Batches of datagrams that are worked off before the clock is looked at again.
const BATCHES: usize = 16;
/// Packets of media that one peer connection may send before the others have their turn.
const PACKETS_AT_ONCE: usize = 64;

/// What a worker is made of.
pub(super) struct Parts {
    pub(super) index: usize,
    pub(super) settings: Arc<Settings>,
    pub(super) environment: Environment,
    pub(super) certificate: Certificate,
    pub(super) sockets: Arc<Sockets>,
    /// Addresses to which clients can connect by TCP.
    pub(super) stream_candidates: Vec<SocketAddr>,
    /// To tell the other workers where its peer connections are.
    pub(super) routes: Vec<Sender<Route>>,
    pub(super) others: Others,
    pub(super) events: broadcast::Sender<CallEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Peer(PeerKey),
    Room(RoomKey),
}

/// A thread's state: it owns its rooms and their peer connections.
pub(super) struct Worker {
    parts: Parts,
    prefix: String,
    candidates: Vec<SocketAddr>,
    rooms: Rooms,
    peers: Peers,
    outgoing: Outgoing,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    dirty: Vec<PeerKey>,
    stopping: Option<oneshot::Sender<()>>,
}

impl Worker {
    fn new(parts: Parts) -> Self {
        let randomness = parts.environment.randomness().clone();
        Self {
            prefix: prefix(parts.index),
            candidates: parts.sockets.candidates(),
            rooms: Rooms::new(parts.settings.clone(), randomness),
            peers: Peers::new(parts.index, parts.routes.clone()),
            outgoing: Outgoing::new(parts.sockets.clone()),
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            stopping: None,
            parts,
        }
    }

    /// Goes on until it is told to stop, or nobody can tell it anything any more.
    pub(super) fn run(
        parts: Parts,
        commands: mpsc::Receiver<Command>,
        datagrams: mpsc::Receiver<Vec<Datagram>>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(Self::new(parts).work(commands, datagrams)));
        if let Err(error) = ended {
            tracing::error!(%error, "calls are no longer served");
        }
    }

    async fn work(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut datagrams: mpsc::Receiver<Vec<Datagram>>,
    ) -> io::Result<()> {
        let mut receiver = Receiver::new(self.parts.sockets.clone())?;
        let mut rounds = Rounds::new(self.now().at);
        let mut batches = Vec::with_capacity(BATCHES);
        loop {
            let deadline = self.next_deadline();
            let mut command = None;
            tokio::select! {
                readable = receiver.readable() => readable?,
                _ = datagrams.recv_many(&mut batches, BATCHES) => {}
                received = commands.recv() => match received {
                    Some(received) => command = Some(received),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            rounds.hold(self.now().at);
            let now = self.now();
            self.parts.others.learn();
            receiver.receive(|source, destination, bytes| {
                if !self.receive(now, source, destination, bytes, None) {
                    self.parts.others.take(source, destination, bytes);
                }
            })?;
            self.parts.others.hand_over();
            for Datagram { source, destination, bytes, stream } in batches.drain(..).flatten() {
                self.receive(now, source, destination, &bytes, stream.as_ref());
            }
            if let Some(command) = command {
                self.command(now, command);
            }
            self.fire(now);
            self.settle(now);
            rounds.note(now.at, self.outgoing.take_sent());
            if let Some(done) = self.stopping.take() {
                // Who asked may have gone.
                let _ = done.send(());
                return Ok(());
            }
        }
    }

    fn now(&self) -> Moment {
        Moment { at: self.parts.environment.clock().monotonic(), time: self.parts.environment.now() }
    }

    fn next_deadline(&self) -> Instant {
        let next = self.timers.peek().map(|Reverse((at, _))| *at);
        next.unwrap_or_else(|| self.now().at + IDLE)
    }

    /// Takes a datagram, if it is for one of the peer connections here.
    fn receive(
        &mut self,
        now: Moment,
        source: SocketAddr,
        destination: SocketAddr,
        bytes: &[u8],
        stream: Option<&Stream>,
    ) -> bool {
        let Some(key) = self.peers.addressee(source, bytes, stream) else { return false };
        let Some(entry) = self.peers.get(key) else { return false };
        match stream {
            None => entry.peer.receive(now.at, source, destination, bytes),
            Some(_) => entry.peer.receive_by_stream(now.at, source, destination, bytes),
        }
        self.drain(now, key);
        true
    }

    fn command(&mut self, now: Moment, command: Command) {
        match command {
            Command::Join { room, may_create, newcomer, sink } => {
                self.join(now, &room, may_create, *newcomer, sink);
            }
            Command::Signal(connection, request) => self.signal(now, connection, *request),
            Command::Closed(connection) => {
                if let Some((key, participant)) = self.rooms.disconnect(connection)
                    && let Some(entry) = self.rooms.entry(key)
                {
                    entry.room.signal_lost(now, participant, connection);
                    self.rooms.touch(key);
                }
            }
            Command::Do(what) => what(&mut self.rooms, now),
            Command::Stop(done) => {
                for key in self.rooms.keys() {
                    if let Some(entry) = self.rooms.entry(key) {
                        // Clients come back when the server does.
                        entry.room.close(now, DisconnectReason::ServerShutdown, Action::Reconnect);
                        self.rooms.touch(key);
                    }
                }
                self.stopping = Some(done);
            }
        }
    }

    fn join(&mut self, now: Moment, name: &str, may_create: bool, newcomer: Newcomer, sink: Sink) {
        let connection = newcomer.connection;
        if !self.rooms.contains(name) {
            // Who wants to go on where nothing is left begins anew, with the right to do so or without.
            let refusal = match (newcomer.parameters.resume.is_some(), may_create) {
                (true, _) => Some((DisconnectReason::StateMismatch, Action::Reconnect)),
                (false, false) => Some((DisconnectReason::RoomDeleted, Action::Disconnect)),
                (false, true) => None,
            };
            if let Some((reason, action)) = refusal {
                refuse(&sink, reason, action);
                return;
            }
        }
        let joined = self.rooms.join(name, newcomer, now);
        match (joined, self.rooms.key(name)) {
            (Ok(participant), Some(key)) => self.rooms.connect(key, participant, connection, sink),
            (Err(Refusal::UnknownSession), _) => {
                refuse(&sink, DisconnectReason::StateMismatch, Action::Reconnect);
            }
            _ => refuse(&sink, DisconnectReason::JoinFailure, Action::Disconnect),
        }
    }

    fn signal(&mut self, now: Moment, connection: ConnectionKey, request: SignalRequest) {
        if let Some((key, participant)) = self.rooms.of_connection(connection)
            && let Some(entry) = self.rooms.entry(key)
        {
            entry.room.signal(now, participant, connection, request);
            self.rooms.touch(key);
        }
    }

    /// Lets time pass for whom it is time.
    fn fire(&mut self, now: Moment) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now.at {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Peer(key) => {
                    let Some(entry) = self.peers.get(key) else { continue };
                    // A later entry of the heap stands for what was put off.
                    if entry.scheduled != Some(at) {
                        continue;
                    }
                    entry.scheduled = None;
                    self.soil(key);
                }
                Timer::Room(key) => {
                    let Some(entry) = self.rooms.entry(key) else { continue };
                    if entry.scheduled != Some(at) {
                        continue;
                    }
                    entry.scheduled = None;
                    entry.room.advance(now);
                    if entry.room.is_finished(now) {
                        entry.room.close(now, DisconnectReason::RoomClosed, Action::Disconnect);
                        self.carry_out(now, key);
                        self.rooms.drop_room(key);
                    } else {
                        self.rooms.touch(key);
                    }
                }
            }
        }
    }

    /// Works off everything that follows from what happened.
    fn settle(&mut self, now: Moment) {
        loop {
            let touched = self.rooms.take_touched();
            let dirty = std::mem::take(&mut self.dirty);
            if touched.is_empty() && dirty.is_empty() {
                break;
            }
            for key in touched {
                self.carry_out(now, key);
                self.schedule_room(now, key);
            }
            for key in dirty {
                if let Some(entry) = self.peers.get(key) {
                    entry.dirty = false;
                    entry.peer.advance(now.at);
                    self.drain(now, key);
                }
            }
        }
        self.outgoing.flush();
    }

    fn schedule_room(&mut self, now: Moment, key: RoomKey) {
        let Some(entry) = self.rooms.entry(key) else { return };
        // Deleted rooms have no name any more and are empty.
        let at = entry.room.deadline().max(now.at);
        if entry.scheduled.is_none_or(|scheduled| at < scheduled) {
            entry.scheduled = Some(at);
            self.timers.push(Reverse((at, Timer::Room(key))));
        }
    }

    /// Marks a peer connection as having something to work off.
    fn soil(&mut self, key: PeerKey) {
        if let Some(entry) = self.peers.get(key)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Does what a peer connection wants until it waits.
    fn drain(&mut self, now: Moment, key: PeerKey) {
        let Some(entry) = self.peers.get(key) else { return };
        let mut at_once = 0;
        let mut reached = None;
        loop {
            match entry.peer.poll() {
                // There is more to send. What goes to one address stays together if that is done here, and leaves by one system call.
                Output::Wait(at) if at <= now.at && at_once < PACKETS_AT_ONCE => {
                    at_once += 1;
                    entry.peer.advance(now.at);
                }
                Output::Datagram { carrier, source, destination, bytes } => {
                    match carrier {
                        Carrier::Datagrams => self.outgoing.push(source, destination, &bytes),
                        Carrier::Stream => entry.send_by_stream(destination, bytes),
                    }
                    reached = Some((carrier, destination));
                }
                Output::Event(event) => {
                    let (room_key, participant, kind) = entry.owner;
                    if let Some(entry) = self.rooms.entry(room_key) {
                        entry.room.transport(now, participant, kind, event);
                        self.rooms.touch(room_key);
                    }
                }
                Output::Wait(at) => {
                    if entry.scheduled.is_none_or(|scheduled| at < scheduled) {
                        entry.scheduled = Some(at);
                        self.timers.push(Reverse((at, Timer::Peer(key))));
                    }
                    break;
                }
            }
        }
        if let Some((carrier, address)) = reached {
            self.peers.reached(now.at, key, carrier, address);
        }
    }

    /// Does what a room wants done.
    fn carry_out(&mut self, now: Moment, key: RoomKey) {
        while let Some(entry) = self.rooms.entry(key) {
            let outputs = entry.room.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.carry_out_one(now, key, output);
            }
        }
    }

    fn carry_out_one(&mut self, now: Moment, key: RoomKey, output: RoomOutput) {
        match output {
            RoomOutput::Media(participant, kind, mid, packet, renumbered) => {
                let Some(peer) = self.peers.of((key, participant, kind)) else { return };
                if let Some(entry) = self.peers.get(peer) {
                    entry.peer.send(mid, &packet, renumbered);
                    self.soil(peer);
                }
            }
            RoomOutput::Signal(participant, response) => self.say(key, participant, &response),
            RoomOutput::CloseSignal(participant) => self.rooms.hang_up(key, participant),
            RoomOutput::Transport(participant, kind, command) => {
                self.transport(now, key, participant, kind, command);
            }
            RoomOutput::Gone(participant) => self.gone(key, participant),
            RoomOutput::Event(event) => {
                let told = event.told();
                let participant = told.participant.map(|participant| participant.sid.as_str());
                tracing::debug!(event = told.name, room = told.room.sid, participant, "call");
                // Nobody may be listening.
                let _ = self.parts.events.send(event);
            }
        }
    }

    fn say(&mut self, key: RoomKey, participant: ParticipantKey, response: &SignalResponse) {
        let Some(entry) = self.rooms.entry(key) else { return };
        let Some((connection, sink)) = entry.sinks.get(&participant) else { return };
        let connection = *connection;
        // Who does not read what it is told is cut off, and gone if it does not come back.
        if sink.say(response.encode_to_vec()).is_err() {
            self.rooms.hang_up(key, participant);
            let now = self.now();
            if let Some(entry) = self.rooms.entry(key) {
                entry.room.signal_lost(now, participant, connection);
            }
        }
    }

    fn transport(
        &mut self,
        now: Moment,
        key: RoomKey,
        participant: ParticipantKey,
        kind: PeerKind,
        command: room::Command,
    ) {
        let owner = (key, participant, kind);
        if matches!(command, room::Command::Open) {
            let mut peer = Peer::new(&self.peer_settings(), now.at);
            peer.offer_streams(&self.parts.stream_candidates);
            let peer = self.peers.add(owner, Guarded::new(peer, now.at));
            self.dirty.push(peer);
            return;
        }
        let Some(peer_key) = self.peers.of(owner) else { return };
        let Some(entry) = self.peers.get(peer_key) else { return };
        let Some(room) = self.rooms.entry(key).map(|entry| &mut entry.room) else { return };
        match command {
            room::Command::Answer(offer) => {
                let answer = entry.peer.answer(&offer);
                self.peers.rename(peer_key);
                room.answered(now, participant, answer);
            }
            room::Command::Offer(changes) => {
                if let Some(offer) = entry.peer.offer(&changes) {
                    room.offered(participant, &offer);
                }
                self.peers.rename(peer_key);
            }
            room::Command::AcceptAnswer(answer) => {
                let accepted = entry.peer.accept_answer(&answer);
                self.peers.rename(peer_key);
                room.answer_accepted(now, participant, accepted);
            }
            room::Command::RequestKeyframe(mid, rid) => entry.peer.request_keyframe(mid, rid),
            room::Command::RenewStream(mid) => entry.peer.renew_stream(mid),
            room::Command::ForgetSent(mid) => entry.peer.forget_sent(mid),
            room::Command::SendData(channel, bytes) => {
                if !entry.peer.send_data(channel, &bytes) {
                    room.fell_behind(now, participant);
                }
            }
            room::Command::RenewData => entry.peer.renew_data(),
            room::Command::SetBitrates(next, desired) => entry.peer.set_bitrates(next, desired),
            room::Command::Open => {}
        }
        self.soil(peer_key);
    }

    fn peer_settings(&self) -> PeerSettings<'_> {
        PeerSettings {
            certificate: &self.parts.certificate,
            addresses: &self.candidates,
            prefix: &self.prefix,
            randomness: self.parts.environment.randomness().clone(),
        }
    }

    /// Says goodbye on the peer connections of a participant and forgets them.
    fn gone(&mut self, key: RoomKey, participant: ParticipantKey) {
        for kind in [PeerKind::Publisher, PeerKind::Subscriber] {
            let Some(peer) = self.peers.of((key, participant, kind)) else { continue };
            let Some(mut entry) = self.peers.remove(peer) else { continue };
            entry.peer.close();
            loop {
                match entry.peer.poll() {
                    Output::Datagram { carrier: Carrier::Datagrams, source, destination, bytes } => {
                        self.outgoing.push(source, destination, &bytes);
                    }
                    Output::Datagram { carrier: Carrier::Stream, destination, bytes, .. } => {
                        entry.send_by_stream(destination, bytes);
                    }
                    Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
        }
    }
}

fn refuse(sink: &Sink, reason: DisconnectReason, action: Action) {
    let response = SignalResponse::from(leave(reason, action));
    // The queue is empty; who is gone needs no answer.
    let _ = sink.say(response.encode_to_vec());
}
