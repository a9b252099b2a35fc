//! Settings that are each valid, and contradict each other.

use url::Url;

use crate::{
    config::Config,
    problem::Problem,
    reading::{Node, PathSegment},
    sections::{acme, identity_servers, listeners},
    values::TimeSpan,
};

/// What contradicts what.
#[derive(Default)]
pub(crate) struct Contradictions {
    found: Vec<Contradiction>,
}

struct Contradiction {
    /// Dotted names of the settings involved; the first is the one to be reported.
    settings: Vec<String>,
    message: String,
}

impl Contradictions {
    /// Notes a contradiction among these settings (dotted names, not empty), of which the first is reported.
    pub(crate) fn add(&mut self, settings: &[&str], message: impl Into<String>) {
        let settings = settings.iter().map(ToString::to_string).collect();
        self.found.push(Contradiction { settings, message: message.into() });
    }

    /// Notes those of the settings that are given and have no length.
    pub(crate) fn refuse_zero_spans(&mut self, settings: &[(&str, Option<TimeSpan>)]) {
        for (setting, _) in settings.iter().filter(|(_, span)| span.is_some_and(TimeSpan::is_zero)) {
            self.add(&[setting], "more than nothing is needed");
        }
    }
}

/// The contradictions in the settings, placed by the tree from which they were read. Those that involve the section of
/// a setting at fault are left out: they may only be consequences of what is already reported.
pub(crate) fn problems_in(config: &Config, tree: &Node, at_fault: &[String]) -> Vec<Problem> {
    let is_at_fault = |setting: &String| at_fault.iter().any(|other| section(other) == section(setting));
    check(config)
        .found
        .into_iter()
        .filter(|contradiction| !contradiction.settings.iter().any(is_at_fault))
        .map(|contradiction| place(contradiction, tree))
        .collect()
}

fn section(setting: &str) -> &str {
    setting.split('.').next().unwrap_or_default()
}

fn check(config: &Config) -> Contradictions {
    let mut found = Contradictions::default();
    check_public_base_url(config, &mut found);
    listeners::check(&config.listeners, &mut found);
    acme::check(config, &mut found);
    config.storage.check(&mut found);
    config.media.check(&mut found);
    config.login.check(&mut found);
    config.accounts.check(&mut found);
    config.federation.check(&mut found);
    config.outbound.check(&mut found);
    identity_servers::check(config, &mut found);
    config.calls.check(&config.call_addresses(), &mut found);
    config.check_turn(&mut found);
    config.support.check(&mut found);
    config.limits.check(&mut found);
    config.push.check(&mut found);
    check_metrics(config, &mut found);
    found
}

fn check_public_base_url(config: &Config, found: &mut Contradictions) {
    let Some(url) = &config.public_base_url else { return };
    let is_plain = |url: &Url| {
        url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    if !matches!(url.scheme(), "http" | "https") || !is_plain(url) {
        let message = "expected an http or https address without user, query and fragment";
        found.add(&["public_base_url"], message);
    } else if config.federation.public_address.is_none() && config.address_in_public_base_url().is_none() {
        let message = "other servers can't be told this host; set federation.public_address";
        found.add(&["public_base_url", "federation.public_address"], message);
    }
}

fn check_metrics(config: &Config, found: &mut Contradictions) {
    let Some(address) = config.metrics.address else { return };
    if address.port() != 0 && config.listeners.iter().any(|listener| listener.address == address) {
        found.add(&["metrics.address", "listeners"], format!("a listener already has {address}"));
    }
}

/// Points to the first of the settings that was given.
fn place(contradiction: Contradiction, tree: &Node) -> Problem {
    let Contradiction { settings, message } = contradiction;
    let place = settings.iter().find_map(|setting| tree.place_of(&path_of(setting))).cloned();
    let setting = settings.into_iter().next().unwrap_or_default();
    let message = format!("{setting}: {message}");
    Problem::with_setting(place, setting, message)
}

fn path_of(setting: &str) -> Vec<PathSegment> {
    let segment = |text: &str| match text.parse() {
        Ok(index) => PathSegment::Index(index),
        Err(_) => PathSegment::Key(text.to_owned()),
    };
    setting.split('.').map(segment).collect()
}
