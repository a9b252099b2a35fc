//! A call: who is in it, and what is measured of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use entente_environment::{Clock, Environment};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Failure,
    bridge::{Bridge, Usage},
    media::LAYERS,
    per_second,
    proto::VideoQuality,
    publisher::{Phase, Publisher},
    ratio,
    received::Received,
    subscriber::{Subscriber, Wish},
};

/// Subscribers that join at the same time.
const JOIN_TOGETHER: usize = 8;
/// How often it is looked at how far a call is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long what is on its way may need, repaired or not.
const LINGER: Duration = Duration::from_secs(1);

/// How large a call is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Of the largest layer, in kbit/s.
    pub(crate) bitrate: u32,
    /// Subscribers tell when what arrived.
    pub(crate) feedback: bool,
    /// Media flows already when subscribers join: others than this bridge connect them only to what there is.
    pub(crate) flows_before: bool,
}

/// A call.
pub(crate) struct Call<'a> {
    pub(crate) size: Size,
    pub(crate) joining: Joining,
    bridge: &'a Bridge,
    clock: Arc<dyn Clock>,
    phase: watch::Sender<Phase>,
    /// What each publisher has sent.
    sent: Vec<Arc<AtomicU64>>,
    subscribers: Vec<Listener>,
    tasks: JoinSet<Result<(), Failure>>,
    /// Memory of the bridge when all were there and nobody sent, in bytes.
    resident: u64,
}

/// A subscriber, from outside.
struct Listener {
    wish: watch::Sender<Wish>,
    received: Arc<Mutex<Received>>,
}

/// What joining took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joining {
    count: u64,
    elapsed: Duration,
    usage: Usage,
    memory: u64,
}

impl Joining {
    /// Subscribers that joined and connected in a second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.count, self.elapsed)
    }

    /// Processor time for each.
    pub(crate) fn processor(&self) -> Duration {
        self.usage.processor() / u32::try_from(self.count.max(1)).unwrap_or(1)
    }

    /// Memory for each, in bytes.
    pub(crate) fn memory(&self) -> f64 {
        ratio(self.memory, self.count)
    }
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) received: Received,
    /// Packets that did not come.
    pub(crate) lost: u64,
    pub(crate) usage: Usage,
    /// Bits per second of each publisher, with everything around media.
    pub(crate) uplink: f64,
    pub(crate) elapsed: Duration,
    /// The share of videos of which the largest layer came at the end.
    pub(crate) highest: f64,
    /// Memory for each subscriber that the bridge has since media flows and had since they joined, in bytes.
    pub(crate) memory: f64,
}

impl<'a> Call<'a> {
    /// Everybody joins; then media begins to flow.
    pub(crate) async fn begin(
        bridge: &'a Bridge,
        environment: &Environment,
        size: Size,
    ) -> Result<Self, Failure> {
        let clock = environment.clock().clone();
        let started = clock.monotonic();
        let (phase, following) = watch::channel(Phase::Waiting);
        let mut tasks = JoinSet::new();
        let mut sent = Vec::new();
        for index in 0..size.publishers {
            // A peer connection is large until it is moved to its task.
            let joining = Publisher::join(bridge, environment, index, size.bitrate, started);
            let publisher = Box::pin(joining).await?;
            sent.push(publisher.sent());
            tasks.spawn(publisher.run(following.clone()));
        }
        if size.flows_before {
            phase.send_replace(Phase::Sending);
        }
        let before = bridge.usage()?;
        let joining_since = clock.monotonic();
        let joined: Vec<Subscriber> = stream::iter(0..size.subscribers)
            .map(|index| Subscriber::join(bridge, environment, index, size.feedback, started))
            .buffer_unordered(JOIN_TOGETHER)
            .try_collect()
            .await?;
        let elapsed = clock.monotonic() - joining_since;
        let after = bridge.usage()?;
        let joining = Joining {
            count: u64::try_from(size.subscribers)?,
            elapsed,
            usage: after.since(before),
            memory: after.resident.saturating_sub(before.resident),
        };
        let mut subscribers = Vec::new();
        for subscriber in joined {
            let (wish, following) = watch::channel(Wish::Quality(VideoQuality::High));
            subscribers.push(Listener { wish, received: subscriber.received() });
            tasks.spawn(subscriber.run(following));
        }
        phase.send_replace(Phase::Sending);
        let resident = before.resident;
        Ok(Self { size, joining, bridge, clock, phase, sent, subscribers, tasks, resident })
    }

    /// Waits until everybody gets the largest layer of everything, or until this much time is over; answers whether they do.
    pub(crate) async fn settle(&mut self, within: Duration) -> Result<bool, Failure> {
        self.wait(within, |call| call.highest() >= 1.0).await
    }

    /// Waits until something is so, or until this much time is over; answers whether it is.
    pub(crate) async fn wait(
        &mut self,
        within: Duration,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<bool, Failure> {
        let give_up_at = self.clock.monotonic() + within;
        while !is_so(self) {
            if self.clock.monotonic() >= give_up_at {
                return Ok(false);
            }
            self.sleep(LOOK_EVERY).await?;
        }
        Ok(true)
    }

    /// Lets the call go on for this long.
    pub(crate) async fn sleep(&mut self, duration: Duration) -> Result<(), Failure> {
        tokio::select! {
            () = tokio::time::sleep(duration) => Ok(()),
            Some(ended) = self.tasks.join_next() => {
                ended??;
                Err("a client left before its time".into())
            }
        }
    }

    /// What a subscriber has got so far.
    pub(crate) fn received(&self, subscriber: usize) -> Received {
        self.subscribers.get(subscriber).map(|listener| listener.received.lock().clone()).unwrap_or_default()
    }

    /// The layers that a subscriber gets at the moment.
    pub(crate) fn layers(&self, subscriber: usize) -> Vec<usize> {
        self.received(subscriber).streams.values().filter_map(|stream| stream.layer).collect()
    }

    /// Has a subscriber get video up to this quality.
    pub(crate) fn wish(&self, subscriber: usize, quality: VideoQuality) {
        if let Some(listener) = self.subscribers.get(subscriber) {
            listener.wish.send_replace(Wish::Quality(quality));
        }
    }

    /// Measures for this long.
    pub(crate) async fn measure(&mut self, duration: Duration) -> Result<Measured, Failure> {
        let missing = self.missing();
        for listener in &self.subscribers {
            listener.received.lock().begin();
        }
        let sent = self.sent();
        let before = self.bridge.usage()?;
        let begun: Instant = self.clock.monotonic();
        self.sleep(duration).await?;
        let elapsed = self.clock.monotonic() - begun;
        let usage = self.bridge.usage()?;
        let mut received = Received::default();
        for listener in &self.subscribers {
            received.add(&listener.received.lock());
        }
        let sent = self.sent() - sent;
        let highest = self.highest();
        // What is not repaired by then is lost.
        self.sleep(LINGER).await?;
        let grown = usage.resident.saturating_sub(self.resident);
        Ok(Measured {
            received,
            lost: self.missing().saturating_sub(missing),
            usage: usage.since(before),
            uplink: per_second(sent * 8, elapsed) / ratio(u64::try_from(self.size.publishers)?, 1).max(1.0),
            elapsed,
            highest,
            memory: ratio(grown, u64::try_from(self.size.subscribers)?),
        })
    }

    fn sent(&self) -> u64 {
        self.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum()
    }

    fn missing(&self) -> u64 {
        self.subscribers.iter().map(|listener| listener.received.lock().missing()).sum()
    }

    /// The share of all videos of which the largest layer comes.
    fn highest(&self) -> f64 {
        let largest = LAYERS.len() - 1;
        let of_one = |listener: &Listener| {
            let received = listener.received.lock();
            received.streams.values().filter(|stream| stream.layer == Some(largest)).count()
        };
        let count: usize = self.subscribers.iter().map(of_one).sum();
        let all = self.size.publishers * self.size.subscribers;
        ratio(u64::try_from(count).unwrap_or(0), u64::try_from(all).unwrap_or(0))
    }

    /// Everybody leaves.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        self.phase.send_replace(Phase::Over);
        for listener in &self.subscribers {
            listener.wish.send_replace(Wish::Over);
        }
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
