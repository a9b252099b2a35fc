//! Logs through `tracing`, for people or for programs, on standard error.

use entente_config::{Config, LogFormat};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Whether the filter can be read.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    filter(config).map(|_| ())
}

/// Sends what the program logs to standard error, and panics too.
pub(crate) fn start(config: &Config) -> Result<(), String> {
    let filter = filter(config)?;
    let layer = match config.log.format {
        LogFormat::Human => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| format!("logging cannot start: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(place, "a panic: {}", message.unwrap_or("without a message"));
    }));
    Ok(())
}

fn filter(config: &Config) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&config.log.filter).map_err(|error| format!("log.filter: {error}"))
}
