//! A bot that calls people together, keeps minutes of who was there, and reminds.

use std::process::ExitCode;

use entente_bots::meeting;

fn main() -> ExitCode {
    entente_bots::main("meeting", |options: meeting::Options, _| Ok(meeting::plan(options)))
}
