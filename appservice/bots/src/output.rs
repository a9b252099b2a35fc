//! What a program says on its terminal.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place that does")]

use std::process::ExitCode;

/// Says something to who called the program.
pub fn say(text: &str) {
    println!("{text}");
}

/// Says why it does not work.
pub fn fail(problem: &str) -> ExitCode {
    eprintln!("error: {problem}");
    ExitCode::FAILURE
}
