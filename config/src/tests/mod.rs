//! Tests of the crate as a whole: reading, refusing, the example.

mod contradictions;
mod environment;
mod example;
mod reading;
mod secrets;

use crate::{Config, ConfigError};

/// Variables from names and values.
fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "entente.toml", [])
}

/// The errors of a text that must be refused.
fn errors(text: &str) -> String {
    parse(text).expect_err("the text is refused").to_string()
}
