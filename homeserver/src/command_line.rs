//! What can be asked of the program.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

/// A sovereign messaging and calling server: a Matrix homeserver and call bridge in one program.
#[derive(Debug, Parser)]
#[command(name = "entente", version)]
pub(crate) struct CommandLine {
    /// The configuration file; without one the server runs as localhost:8008 with everything under ./data.
    #[arg(long, short, global = true, env = "ENTENTE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the server. The default.
    Serve,
    /// Reads the configuration, says what is wrong with it, and stops.
    CheckConfig,
    /// Administers accounts, through the running server if there is one.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Writes a backup of the store, through the running server if there is one, while it goes on working.
    Backup {
        /// The file to write; it must not exist yet.
        file: PathBuf,
    },
    /// Reads a backup into an empty store, whatever engine it came from.
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// Reads a backup from beginning to end and says whether it is whole.
    VerifyBackup {
        /// The backup.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Makes a user. The password is read from standard input.
    CreateUser {
        /// The part of the id before the server's name.
        name: String,
        /// Makes the user an administrator.
        #[arg(long)]
        admin: bool,
    },
    /// Gives a user a new password, read from standard input, and ends all of the user's sessions.
    ResetPassword {
        /// The user's name or whole id.
        user: String,
    },
    /// Registers an application service, or replaces its registration. It stays registered without the file.
    AddAppservice {
        /// Its registration: YAML.
        file: PathBuf,
    },
    #[command(flatten)]
    Plain(PlainCommand),
}

/// What reaches the server as it was typed.
#[derive(Clone, Debug, Deserialize, Serialize, Subcommand)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlainCommand {
    /// Removes an application service that was added with `add-appservice`, or by an administrator, and what waits for it.
    RemoveAppservice {
        /// The id in its registration.
        id: String,
    },
    /// Lists the application services.
    Appservices,
    /// Tells how the calls that this server forwards fare: for each participant the path its media takes, what is lost on it and how much it
    /// carries.
    Calls,
    #[command(flatten)]
    Media(MediaCommand),
    /// Makes a token with which people can register, and prints it.
    RegistrationToken(RegistrationTokenArguments),
}

/// What is done about uploads.
#[derive(Clone, Debug, Deserialize, Serialize, Subcommand)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MediaCommand {
    /// Deletes a file that a user uploaded, or the copy of another server's, for everybody.
    DeleteMedia {
        /// `mxc://server/id`.
        uri: String,
    },
    /// Deletes everything that a user uploaded.
    DeleteMediaOf {
        /// The user's name or whole id.
        user: String,
    },
    /// Keeps a file from everybody; one of another server is not fetched any more.
    QuarantineMedia {
        /// `mxc://server/id`.
        uri: String,
        /// Gives it out again.
        #[arg(long)]
        release: bool,
    },
}

#[derive(Args, Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RegistrationTokenArguments {
    /// How many people may use it; without it, any number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) uses: Option<u64>,
    /// How many seconds it is valid; without it, for ever.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) lifetime: Option<u64>,
    /// Makes whoever uses it an administrator.
    #[arg(long)]
    pub(crate) admin: bool,
}
