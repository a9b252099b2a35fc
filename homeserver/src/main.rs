//! `entente`: the wiring of the homeserver, and its command line.

mod admin;
mod appservices;
mod backups;
mod calls;
mod catalogue;
mod command_line;
mod followers;
mod greeting;
mod logging;
mod media;
mod output;
mod secrets;
mod serve;
mod settings;
mod store;
mod turn;

use std::process::ExitCode;

use clap::Parser;
use entente_config::Config;
use entente_environment::Environment;

use self::{
    admin::AdminRequest,
    command_line::{AdminCommand, Command, CommandLine},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code for a configuration that cannot be used, as `sysexits.h` has it.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let config = match load_config(&command_line) {
        Ok(config) => config,
        Err(problems) => {
            output::complain(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("the runtime cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command_line.command.unwrap_or(Command::Serve), &config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output::complain(&problem);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the process's environment")]
fn load_config(command_line: &CommandLine) -> Result<Config, String> {
    // Names and values that are not UTF-8 cannot be settings of ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(command_line.config.as_deref(), variables).map_err(|error| error.to_string())
}

async fn run(command: Command, config: &Config) -> Result<(), String> {
    let environment = Environment::system();
    match command {
        Command::Serve => serve::serve(config, environment).await,
        Command::CheckConfig => {
            serve::check(config)?;
            output::say("the configuration is good");
            Ok(())
        }
        Command::Admin { command } => {
            let request = admin_request(command)?;
            output::say(&admin::send(request, config, &environment).await?);
            Ok(())
        }
        Command::Backup { file } => {
            let file = std::path::absolute(&file).map_err(|error| error.to_string())?;
            output::say(&admin::send(AdminRequest::Backup { file }, config, &environment).await?);
            Ok(())
        }
        Command::Restore { file } => {
            output::say(&backups::restore(config, &file).await?);
            Ok(())
        }
        Command::VerifyBackup { file } => {
            output::say(&backups::verify(&file).await?);
            Ok(())
        }
    }
}

fn admin_request(command: AdminCommand) -> Result<AdminRequest, String> {
    Ok(match command {
        AdminCommand::CreateUser { name, admin } => {
            AdminRequest::CreateUser { name, password: read_password()?, admin }
        }
        AdminCommand::ResetPassword { user } => {
            AdminRequest::ResetPassword { user, password: read_password()? }
        }
        AdminCommand::AddAppservice { file } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
            AdminRequest::AddAppservice { registration: text }
        }
        AdminCommand::Plain(command) => AdminRequest::Plain { command },
    })
}

/// From the terminal without showing it, or the first line of standard input.
fn read_password() -> Result<String, String> {
    use std::io::IsTerminal as _;
    let unreadable = |error: std::io::Error| format!("the password cannot be read: {error}");
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password("Password: ").map_err(unreadable);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(unreadable)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        Err(String::from("standard input holds no password"))
    } else {
        Ok(password.to_owned())
    }
}
