//! Load for the call bridge, and a check of it, by clients on another WebRTC stack.
//!
//! The stack is `rtc`, the part of webrtc-rs that does no I/O, on which `webrtc` is built: without the tasks and channels of that, the
//! same two cores carry several times as many clients beside the bridge that is measured.
//!
//! `cargo run --release -p entente-call-bridge --example load -- --subscribers 50` says what a bridge can carry; `standalone` must have
//! been built the same way. With `--check` a small call is held, and it ends with 1 if anything is not as it should be.

#![expect(clippy::print_stdout, reason = "it says what it measured")]

mod bridge;
mod check;
mod client;
mod keyframes;
mod limit;
mod media;
mod peer;
mod proto;
mod publisher;
mod received;
mod run;
mod signalling;
mod subscriber;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use entente_call_bridge::ApiKey;
use entente_environment::Environment;

use crate::{
    bridge::Bridge,
    run::{Call, Measured, Size},
};

/// Why a run ended before its time.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// Participants that send a camera in three layers and a microphone.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Participants that get all of that.
    #[arg(long, default_value_t = 50)]
    subscribers: usize,
    /// The bitrate of the largest layer, in kbit/s.
    #[arg(long, default_value_t = 1_700)]
    bitrate: u32,
    /// How long is measured, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How long it may take, in seconds, until everybody gets the largest layer. It is measured then, whether they do or not.
    #[arg(long, default_value_t = 60)]
    settle: u64,
    /// Subscribers do not tell when what arrived, so the bridge does not estimate what their paths carry.
    #[arg(long)]
    no_feedback: bool,
    /// Threads of the bridge that forward.
    #[arg(long, default_value_t = 1)]
    workers: u32,
    /// Hold a small call instead, and say whether it is as it should be.
    #[arg(long)]
    check: bool,
    /// The bridge that is started; `standalone` beside this program if absent.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where a bridge is that runs already, or another server that speaks LiveKit's protocol: a host and a port. Nothing is started then, and
    /// media flows before subscribers join.
    #[arg(long, requires_all = ["process", "key", "secret"])]
    running: Option<String>,
    /// Its process on this machine.
    #[arg(long)]
    process: Option<u32>,
    /// The name of the key by which it knows tokens.
    #[arg(long)]
    key: Option<String>,
    /// Its secret.
    #[arg(long)]
    secret: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let environment = Environment::system();
    let bridge = bridge(&arguments, &environment).await?;
    if arguments.check {
        let wrong = check::check(&bridge, &environment).await?;
        for one in &wrong {
            println!("wrong: {one}");
        }
        return Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let size = Size {
        publishers: arguments.publishers,
        subscribers: arguments.subscribers,
        bitrate: arguments.bitrate,
        feedback: !arguments.no_feedback,
        flows_before: arguments.running.is_some(),
    };
    let limit = tokio::task::spawn_blocking(limit::measure).await??;
    let mut call = Call::begin(&bridge, &environment, size).await?;
    call.settle(Duration::from_secs(arguments.settle)).await?;
    let measured = call.measure(Duration::from_secs(arguments.seconds)).await?;
    report(&call, &measured, limit);
    call.end().await?;
    Ok(ExitCode::SUCCESS)
}

async fn bridge(arguments: &Arguments, environment: &Environment) -> Result<Bridge, Failure> {
    if let (Some(authority), Some(process), Some(name), Some(secret)) =
        (&arguments.running, arguments.process, &arguments.key, &arguments.secret)
    {
        let key = ApiKey { name: name.clone(), secret: secret.clone() };
        return Ok(Bridge::running(authority.clone(), key, process));
    }
    let beside = || std::env::current_exe().map(|path| path.with_file_name("standalone"));
    let program = arguments.program.clone().map_or_else(beside, Ok)?;
    Bridge::start(&program, arguments.workers, environment).await
}

fn report(call: &Call<'_>, measured: &Measured, limit: limit::Limit) {
    let Measured { received, lost, usage, uplink, elapsed, highest, memory } = measured;
    let joining = &call.joining;
    println!("{} to {}", call.size.publishers, call.size.subscribers);
    println!("joins                  {:8.1} a second", joining.rate());
    println!("a join                 {:8.2} ms of processor time", joining.processor().as_secs_f64() * 1e3);
    println!("a participant          {:8.3} MB, connected", joining.memory() / 1e6);
    println!("a subscriber           {:8.3} MB, receiving", memory / 1e6);
    println!("forwarded              {:8.0} packets a second", per_second(received.packets, *elapsed));
    println!("                       {:8.0} bytes each", ratio(received.bytes, received.packets));
    println!(
        "processor              {:8.1} % of a core",
        usage.processor().as_secs_f64() / elapsed.as_secs_f64() * 1e2
    );
    println!(
        "  of that, kernel      {:8.1} %",
        usage.system.as_secs_f64() / usage.processor().as_secs_f64() * 1e2
    );
    println!(
        "forwarded              {:8.0} packets per CPU-second",
        per_second(received.packets, usage.processor())
    );
    println!("limit, encrypted only  {:8.0} packets per CPU-second", limit.encrypted);
    println!("limit, one by one      {:8.0} packets per CPU-second", limit.one_by_one);
    println!("limit, together        {:8.0} packets per CPU-second", limit.together);
    for (name, thousandths) in [("p50", 500), ("p99", 990)] {
        let latency = received.latencies.quantile(thousandths);
        println!("added latency, {name}     {:8.2} ms", latency.as_secs_f64() * 1e3);
    }
    println!("lost                   {:8.4} %", ratio(lost * 100, received.packets + lost));
    println!("repaired or late       {:8} packets", received.late);
    println!("with the largest layer {:8.1} % of subscriptions", highest * 1e2);
    println!("a publisher's uplink   {:8.0} kbit/s", uplink / 1e3);
    println!("torn or mistimed       {:8} packets", received.torn + received.mistimed);
}

/// So many in this time, a second.
fn per_second(count: u64, time: Duration) -> f64 {
    ratio(count, 1) / time.as_secs_f64()
}

/// A ratio of counts, which are far below what a float can count.
#[expect(clippy::cast_precision_loss, reason = "counts of packets and bytes are below 2^53")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}
