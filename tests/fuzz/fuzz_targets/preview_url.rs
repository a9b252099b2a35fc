//! Addresses that others link to, and to which their pages lead on: a line each.
#![no_main]

use std::sync::Arc;

use entente_outbound::is_private_address;
use entente_outbound::{AddressPolicy, UrlPolicy};
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

fuzz_target!(|text: &str| {
    let policy = UrlPolicy::new(Arc::new(AddressPolicy::public_internet()), &[]);
    let mut lines = text.lines();
    let Some(mut url) = lines.next().and_then(|line| Url::parse(line).ok()) else { return };
    for line in std::iter::once("").chain(lines) {
        let Ok(next) = url.join(line) else { return };
        url = next;
        // Nothing is asked there, and so nothing leads on.
        if policy.check(&url).is_err() {
            return;
        }
        assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty());
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => continue,
        };
        assert!(!is_private_address(address), "{url}");
    }
});
