//! What the shipped bots have in common: a command line, a configuration file, a registration file.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use entente_appservice::{Bridge, Builder, Registration, RegistrationError, RunError, Settings};
use entente_environment::Environment;
use serde::{Deserialize, de::DeserializeOwned};

pub mod meeting;
pub mod output;
pub mod webhook;

#[derive(Debug, Parser)]
#[command(version, about)]
struct CommandLine {
    /// The configuration file.
    #[arg(long, short, default_value = "bot.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the bot. This is what happens without a command.
    Run,
    /// Writes the registration file for the homeserver, with fresh tokens.
    Register {
        /// Where the homeserver reaches the bot.
        #[arg(long)]
        url: String,
    },
}

/// A configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config<T> {
    /// The registration file; beside the configuration unless it says otherwise.
    #[serde(default = "registration_file")]
    registration: PathBuf,
    /// The localpart of the bot.
    #[serde(default)]
    localpart: Option<String>,
    /// What every service needs.
    service: Settings,
    /// What this bot needs.
    #[serde(default = "Option::default")]
    bot: Option<T>,
}

fn registration_file() -> PathBuf {
    "registration.yaml".into()
}

/// The options of a bot that has none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// Something that begins once the service is built.
type Task = Box<dyn FnOnce(&Bridge) + Send>;

/// What a bot adds to a service.
#[expect(missing_debug_implementations, reason = "it consists of closures")]
pub struct Plan {
    handlers: Box<dyn FnOnce(Builder) -> Builder + Send>,
    tasks: Vec<Task>,
}

impl Plan {
    /// Handlers that are added to the service.
    pub fn new(handlers: impl FnOnce(Builder) -> Builder + Send + 'static) -> Self {
        Self { handlers: Box::new(handlers), tasks: Vec::new() }
    }

    /// Something that begins once the service is built.
    #[must_use]
    pub fn then(mut self, task: impl FnOnce(&Bridge) + Send + 'static) -> Self {
        self.tasks.push(Box::new(task));
        self
    }

    /// Builds the service.
    pub async fn build(self, builder: Builder) -> Result<Bridge, RunError> {
        let bridge = (self.handlers)(builder).build().await?;
        for task in self.tasks {
            task(&bridge);
        }
        Ok(bridge)
    }
}

/// Why a bot does not run.
#[derive(Debug, thiserror::Error)]
pub enum BotError {
    /// The configuration file cannot be read.
    #[error("{}: {error}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        error: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{}: {error}", file.display())]
    Config {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        error: Box<toml::de::Error>,
    },
    /// The registration file is not what it should be.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// The options of the bot cannot be.
    #[error("[bot]: {0}")]
    Options(String),
    /// The service stopped.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A bot's `main`: reads the command line and the configuration, and runs until it is told to stop.
pub fn main<T: DeserializeOwned + Default>(
    name: &str,
    plan: impl FnOnce(T, &Settings) -> Result<Plan, String>,
) -> ExitCode {
    let command_line = CommandLine::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(
            "info,matrix_sdk_crypto=warn,matrix_sdk_sqlite=warn",
        ))
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&format!("the runtime cannot start: {error}")),
    };
    match runtime.block_on(run(name, command_line, plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error.to_string()),
    }
}

async fn run<T: DeserializeOwned + Default>(
    name: &str,
    command_line: CommandLine,
    plan: impl FnOnce(T, &Settings) -> Result<Plan, String>,
) -> Result<(), BotError> {
    let file = command_line.config;
    let text =
        std::fs::read_to_string(&file).map_err(|error| BotError::File { file: file.clone(), error })?;
    let config: Config<T> = toml::from_str(&text)
        .map_err(|error| BotError::Config { file: file.clone(), error: Box::new(error) })?;
    let path = file.parent().unwrap_or(&file).join(&config.registration);
    if let Some(Command::Register { url }) = command_line.command {
        let localpart = config.localpart.as_deref().unwrap_or(name);
        register(name, localpart, &url, &config.service).write_new(&path)?;
        output::say(&format!("{} is written; give it to the homeserver", path.display()));
        return Ok(());
    }
    let plan = plan(config.bot.unwrap_or_default(), &config.service).map_err(BotError::Options)?;
    let registration = Registration::read(&path)?;
    let bridge = plan.build(Builder::new(config.service, registration)).await?;
    bridge.run_until_signal().await?;
    Ok(())
}

fn register(name: &str, localpart: &str, url: &str, settings: &Settings) -> Registration {
    let registration = Registration::generate(name, url, localpart, &Environment::system());
    if settings.ghost_prefix.is_empty() {
        registration
    } else {
        registration.with_ghosts(&settings.ghost_prefix, settings.server_name.as_str())
    }
}
