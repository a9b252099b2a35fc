//! Threads that forward media. Each room is on one of them, which owns everything of it: nothing on the way of a packet is locked.

mod datagrams;
mod others;
mod outgoing;
mod peers;
mod receiving;
mod rooms;
mod rounds;
mod running;
mod sink;
mod sockets;
mod streams;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use entente_environment::Environment;
use tokio::sync::{broadcast, mpsc, oneshot};

#[cfg(feature = "fuzzing")]
pub(crate) use self::datagrams::user_name;
use self::{
    others::Others,
    running::{Parts, Worker},
    sockets::Sockets,
    streams::Listeners,
};
pub(crate) use self::{
    rooms::{Obstacle, Rooms},
    sink::{Responses, Sink, sink},
};
use crate::{
    CallEvent, Settings,
    proto::SignalRequest,
    room::{ConnectionKey, Moment, Newcomer},
    transport::Certificate,
};

/// Commands that wait for a worker; who has more to say waits.
const WAITING_COMMANDS: usize = 1_024;
/// Batches of datagrams that wait for a worker; more are lost, as on a full network.
const WAITING_DATAGRAMS: usize = 512;
/// Events that a slow listener may lie behind.
const WAITING_EVENTS: usize = 16 * 1_024;

/// Something that is done with the rooms of a worker, on its thread.
pub(crate) type Job = Box<dyn FnOnce(&mut Rooms, Moment) + Send>;

/// What a worker is asked to do.
pub(crate) enum Command {
    /// Let somebody into a room.
    Join {
        /// The room's name.
        room: String,
        /// Whether it is made if it is not there.
        may_create: bool,
        /// Who.
        newcomer: Box<Newcomer>,
        /// Where answers go.
        sink: Sink,
    },
    /// Take what a client says.
    Signal(ConnectionKey, Box<SignalRequest>),
    /// A signalling connection is over.
    Closed(ConnectionKey),
    /// Something with the rooms.
    Do(Job),
    /// End all rooms, and the thread.
    Stop(oneshot::Sender<()>),
}

/// All workers.
pub(crate) struct Workers {
    commands: Vec<mpsc::Sender<Command>>,
    events: broadcast::Sender<CallEvent>,
    next_connection: AtomicU64,
    port: u16,
    tcp_port: Option<u16>,
}

/// Why the bridge does not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port for media is taken, or its addresses are not ours.
    #[error("cannot receive media on UDP port {port}: {source}")]
    Bind {
        /// Which.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The TCP port for media is taken.
    #[error("cannot receive media on the TCP port: {0}")]
    Listen(io::Error),
    /// There is no address to tell to clients.
    #[error("no address for media is configured")]
    NoAddress,
    /// A certificate cannot be made.
    #[error("cannot make a certificate for media")]
    Certificate,
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// The worker is gone: the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("calls have been stopped")]
pub struct Stopped;

impl Workers {
    /// Binds the sockets and starts the threads.
    pub(crate) fn start(settings: &Arc<Settings>, environment: &Environment) -> Result<Self, StartError> {
        if settings.addresses.is_empty() {
            return Err(StartError::NoAddress);
        }
        let certificate = Certificate::generate().ok_or(StartError::Certificate)?;
        let bind_error = |source| StartError::Bind { port: settings.udp_port, source };
        let sockets = Sockets::bind(settings).map_err(bind_error)?;
        let port = sockets.first().map_or(settings.udp_port, Sockets::port);
        let listeners = Listeners::bind(settings).map_err(StartError::Listen)?;
        let stream_candidates = listeners.as_ref().map(Listeners::candidates).unwrap_or_default();
        let (events, _) = broadcast::channel(WAITING_EVENTS);
        let (mut datagrams, mut waiting, mut routes, mut learning) = (vec![], vec![], vec![], vec![]);
        for _ in 0..settings.workers.get() {
            let (sender, receiver) = mpsc::channel(WAITING_DATAGRAMS);
            datagrams.push(sender);
            waiting.push(receiver);
            let (sender, receiver) = std::sync::mpsc::channel();
            routes.push(sender);
            learning.push(receiver);
        }
        let mut commands = Vec::new();
        for (index, ((sockets, waiting), learning)) in
            sockets.into_iter().zip(waiting).zip(learning).enumerate()
        {
            let (sender, receiver) = mpsc::channel(WAITING_COMMANDS);
            commands.push(sender);
            let others = routes.iter().enumerate().filter(|(other, _)| *other != index);
            let parts = Parts {
                index,
                settings: settings.clone(),
                environment: environment.clone(),
                certificate: certificate.clone(),
                sockets: Arc::new(sockets),
                stream_candidates: stream_candidates.clone(),
                routes: others.map(|(_, routes)| routes.clone()).collect(),
                others: Others::new(datagrams.clone(), index, learning),
                events: events.clone(),
            };
            spawn(format!("media-{index}"), move || Worker::run(parts, receiver, waiting))?;
        }
        if let Some(listeners) = listeners {
            spawn("media-tcp".to_owned(), move || listeners.run(datagrams))?;
        }
        let tcp_port = stream_candidates.first().map(std::net::SocketAddr::port);
        Ok(Self { commands, events, next_connection: AtomicU64::new(1), port, tcp_port })
    }

    /// The port of all media.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The TCP port of media, if there is one.
    pub(crate) fn tcp_port(&self) -> Option<u16> {
        self.tcp_port
    }

    /// A number for a signalling connection.
    pub(crate) fn new_connection(&self) -> ConnectionKey {
        ConnectionKey(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<CallEvent> {
        self.events.subscribe()
    }

    /// The worker of a room.
    pub(crate) fn of_room(&self, room: &str) -> Option<&mpsc::Sender<Command>> {
        let count = NonZeroUsize::new(self.commands.len())?;
        let mut hasher = DefaultHasher::new();
        room.hash(&mut hasher);
        let index = hasher.finish() % u64::try_from(count.get()).unwrap_or(1);
        self.commands.get(usize::try_from(index).unwrap_or(0))
    }

    /// Does something on the worker of a room and answers what came out.
    pub(crate) async fn with_room<R: Send + 'static>(
        &self,
        room: &str,
        what: impl FnOnce(&mut Rooms, Moment) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        ask(self.of_room(room).ok_or(Stopped)?, what).await
    }

    /// Does something on every worker.
    pub(crate) async fn with_all<R: Send + 'static>(
        &self,
        what: impl Fn(&mut Rooms, Moment) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, Stopped> {
        let mut answers = Vec::with_capacity(self.commands.len());
        for worker in &self.commands {
            answers.push(ask(worker, what.clone()).await?);
        }
        Ok(answers)
    }

    /// Ends all rooms and all threads.
    pub(crate) async fn stop(&self) {
        for worker in &self.commands {
            let (done, ended) = oneshot::channel();
            if worker.send(Command::Stop(done)).await.is_ok() {
                // An error means that it has ended as well.
                let _ = ended.await;
            }
        }
    }
}

async fn ask<R: Send + 'static>(
    worker: &mpsc::Sender<Command>,
    what: impl FnOnce(&mut Rooms, Moment) -> R + Send + 'static,
) -> Result<R, Stopped> {
    let (answer, answered) = oneshot::channel();
    let command = Command::Do(Box::new(move |rooms, now| {
        // Who asked may have gone.
        let _ = answer.send(what(rooms, now));
    }));
    worker.send(command).await.map_err(|_| Stopped)?;
    answered.await.map_err(|_| Stopped)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    thread::Builder::new().name(name).spawn(run)?;
    Ok(())
}
