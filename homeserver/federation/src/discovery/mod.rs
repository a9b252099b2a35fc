//! Where a server is (S-S API, "Server discovery").
//!
//! [`Discovery`] decides what to ask next and does no I/O itself. Its first half leads from a server's name to an
//! [`Authority`], by `/.well-known/matrix/server`; the second from there to addresses, by DNS. Connections are pooled by
//! authority, so the client runs the halves apart: the first for each request, from a cache, the second for each connection.

mod authority;
mod dns;
mod well_known;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use ruma::ServerName;

pub use self::{
    authority::{Authority, Host},
    dns::{Dns, DnsError, SystemDns},
    well_known::WellKnown,
};

/// Where servers are that say nothing else.
pub(crate) const DEFAULT_PORT: u16 = 8448;
/// Of an SRV answer so many targets are tried.
const MOST_TARGETS: usize = 8;
/// Of all addresses that were found so many are tried.
const MOST_ADDRESSES: usize = 16;

/// What to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What `https://<host>/.well-known/matrix/server` says.
    WellKnown(String),
    /// The SRV records of this name.
    Services(String),
    /// The A and AAAA records of this name.
    Addresses(String),
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower is tried before higher.
    pub priority: u16,
    /// The share among those of the same priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The name of the machine; `.` if there is none.
    pub target: String,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server says that it is elsewhere; `None` if it says nothing, or nothing that makes sense.
    WellKnown(Option<Authority>),
    /// The records; none if there are none or they could not be had.
    Services(Vec<Service>),
    /// The addresses; none if there are none or they could not be had.
    Addresses(Vec<IpAddr>),
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The `Host` header of requests, and by its host what the certificate must be made out to.
    pub authority: Authority,
    /// Where to connect, best first.
    pub addresses: Vec<SocketAddr>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Find this out, and tell it to [`Discovery::answer`].
    Ask(Question),
    /// The server is here.
    Found(Target),
    /// The server is nowhere.
    NotFound(&'static str),
}

/// The search for one server.
#[derive(Clone, Debug)]
pub struct Discovery {
    authority: Authority,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Delegation(String),
    Services { name: String, deprecated: bool },
    Targets { waiting: VecDeque<(String, u16)>, found: Vec<SocketAddr> },
    Host { name: String, port: u16 },
    Done(Vec<SocketAddr>),
}

impl Discovery {
    /// The search for the server of that name; `None` if nothing of that name can be anywhere.
    pub fn of(server: &ServerName) -> Option<Self> {
        let authority = Authority::parse(server.as_str())?;
        match &authority {
            Authority { host: Host::Name(name), port: None } => {
                let stage = Stage::Delegation(name.clone());
                Some(Self { authority, stage })
            }
            _ => Some(Self::at(authority)),
        }
    }

    /// The search for what answers at an authority: the second half.
    pub fn at(authority: Authority) -> Self {
        let port = authority.port.unwrap_or(DEFAULT_PORT);
        let stage = match (&authority.host, authority.port) {
            (Host::Address(address), _) => Stage::Done(vec![SocketAddr::new(*address, port)]),
            (Host::Name(name), Some(port)) => Stage::Host { name: name.clone(), port },
            (Host::Name(name), None) => Stage::Services { name: name.clone(), deprecated: false },
        };
        Self { authority, stage }
    }

    /// The authority, as soon as the search has left its first half.
    pub fn authority(&self) -> Option<&Authority> {
        let is_settled = !matches!(self.stage, Stage::Delegation(_));
        is_settled.then_some(&self.authority)
    }

    /// What comes next.
    pub fn next(&self) -> Next {
        match &self.stage {
            Stage::Delegation(host) => Next::Ask(Question::WellKnown(host.clone())),
            Stage::Services { name, deprecated: false } => {
                Next::Ask(Question::Services(format!("_matrix-fed._tcp.{name}")))
            }
            Stage::Services { name, deprecated: true } => {
                Next::Ask(Question::Services(format!("_matrix._tcp.{name}")))
            }
            Stage::Targets { waiting, .. } => match waiting.front() {
                Some((target, _)) => Next::Ask(Question::Addresses(target.clone())),
                None => Next::NotFound("its SRV records name no machine that has an address"),
            },
            Stage::Host { name, .. } => Next::Ask(Question::Addresses(name.clone())),
            Stage::Done(addresses) if addresses.is_empty() => Next::NotFound("its name has no address"),
            Stage::Done(addresses) => {
                Next::Found(Target { authority: self.authority.clone(), addresses: addresses.clone() })
            }
        }
    }

    /// Takes the answer to the question that was last asked; one to another question changes nothing. `roll` gives a random
    /// number below its argument.
    pub fn answer(&mut self, answer: Answer, roll: &mut dyn FnMut(u64) -> u64) {
        match (&mut self.stage, answer) {
            (Stage::Delegation(_), Answer::WellKnown(delegated)) => {
                let authority = delegated.unwrap_or_else(|| self.authority.clone());
                *self = Self::at(authority);
            }
            (Stage::Services { name, deprecated }, Answer::Services(services)) => {
                self.stage = match (services.is_empty(), *deprecated) {
                    (true, false) => Stage::Services { name: name.clone(), deprecated: true },
                    (true, true) => Stage::Host { name: name.clone(), port: DEFAULT_PORT },
                    (false, _) => Stage::Targets { waiting: in_order(services, roll), found: Vec::new() },
                };
            }
            (Stage::Targets { waiting, found }, Answer::Addresses(addresses)) => {
                if let Some((_, port)) = waiting.pop_front() {
                    found.extend(with_port(addresses, port));
                    found.truncate(MOST_ADDRESSES);
                }
                if waiting.is_empty() && !found.is_empty() {
                    self.stage = Stage::Done(std::mem::take(found));
                }
            }
            (Stage::Host { port, .. }, Answer::Addresses(addresses)) => {
                let mut addresses = with_port(addresses, *port);
                addresses.truncate(MOST_ADDRESSES);
                self.stage = Stage::Done(addresses);
            }
            _ => {}
        }
    }
}

/// Both families by turns, IPv6 first: whichever of them does not work here costs little.
fn with_port(addresses: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten().map(|address| SocketAddr::new(address, port)));
    }
}

/// Targets and ports in the order in which they are tried: by priority, and by chance among equals, in proportion to their
/// weights (RFC 2782).
fn in_order(mut services: Vec<Service>, roll: &mut dyn FnMut(u64) -> u64) -> VecDeque<(String, u16)> {
    services.retain(|service| !matches!(service.target.as_str(), "" | ".") && service.port != 0);
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = VecDeque::new();
    while let Some(first) = services.first() {
        if ordered.len() >= MOST_TARGETS {
            break;
        }
        let priority = first.priority;
        let equals = services.iter().take_while(|service| service.priority == priority);
        let total: u64 = equals.map(|service| u64::from(service.weight)).sum();
        // Those without weight stand first and are chosen by the lowest roll only.
        let mut left = roll(total + 1);
        let chosen = services.iter().take_while(|service| service.priority == priority).position(|service| {
            let weight = u64::from(service.weight);
            let is_chosen = left <= weight;
            left = left.saturating_sub(weight);
            is_chosen
        });
        let service = services.remove(chosen.unwrap_or(0));
        let target = service.target.strip_suffix('.').unwrap_or(&service.target).to_ascii_lowercase();
        ordered.push_back((target, service.port));
    }
    ordered
}
