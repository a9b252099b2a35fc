//! A bot that says in rooms what other programs tell it over HTTP, and tells other programs what is said in rooms.

use std::process::ExitCode;

use entente_bots::webhook;

fn main() -> ExitCode {
    entente_bots::main("webhook", |options: webhook::Options, _| {
        webhook::plan(options).map_err(|error| error.to_string())
    })
}
