//! The file of settings, and one variable of the environment behind a line of `%%`.
#![no_main]

use entente_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (file, variable) = text.split_once("\n%%\n").unwrap_or((text, ""));
    let variable = variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    match Config::parse(file, "entente.toml", variable) {
        Ok(config) => {
            let spelt_out = config.spelt_out();
            assert_eq!(spelt_out.public_base_url(), config.public_base_url());
            let _ = (config.acme_domains(), config.federation_address());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
