//! The call bridge alone, for tries with LiveKit's clients and tools.
//!
//! `cargo run -p entente-call-bridge --example standalone -- --key devkey --secret …`

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
};

use clap::Parser;
use entente_call_bridge::{ApiKey, CallBridge, EveryHolder, MediaAddress, Settings, Webhooks};
use entente_environment::Environment;
use tokio::net::TcpListener;

#[derive(Parser)]
struct Arguments {
    /// Where signalling is served, without TLS.
    #[arg(long, default_value = "127.0.0.1:7880")]
    listen: SocketAddr,
    /// The UDP port of all media.
    #[arg(long, default_value_t = 7882)]
    udp_port: u16,
    /// The TCP port of media; without it there is none.
    #[arg(long)]
    tcp_port: Option<u16>,
    /// Addresses of this machine for media.
    #[arg(long, default_value = "127.0.0.1")]
    address: Vec<IpAddr>,
    /// Threads that forward media.
    #[arg(long, default_value = "1")]
    workers: NonZeroUsize,
    /// The name of the key that signs tokens.
    #[arg(long)]
    key: String,
    /// Its secret.
    #[arg(long)]
    secret: String,
    /// Addresses that are told what happens.
    #[arg(long)]
    webhook: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "info,str0m=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let key = ApiKey { name: arguments.key, secret: arguments.secret };
    let addresses: Vec<MediaAddress> = arguments.address.into_iter().map(Into::into).collect();
    let settings = Settings {
        workers: arguments.workers,
        tcp_port: arguments.tcp_port,
        ..Settings::new(key.clone(), arguments.udp_port, addresses)
    };
    let webhooks = Webhooks::new(arguments.webhook, key.clone(), Environment::system())?;
    let bridge = CallBridge::start(settings, Environment::system(), Arc::new(EveryHolder))?;
    let listener = TcpListener::bind(arguments.listen).await?;
    tracing::info!(address = %listener.local_addr()?, udp.port = bridge.udp_port(), "listening");
    tokio::spawn(webhooks.follow(bridge.events()));
    let mut events = bridge.events();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            tracing::info!(%event, "call");
        }
    });
    let stopping = bridge.clone();
    let interrupted = async move {
        // Without the signal it runs until it is killed.
        let _ = tokio::signal::ctrl_c().await;
        stopping.stop().await;
    };
    axum::serve(listener, bridge.router()).with_graceful_shutdown(interrupted).await?;
    Ok(())
}
