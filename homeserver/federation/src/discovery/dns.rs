use std::{net::IpAddr, time::Duration};

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::LookupIpStrategy,
    net::NetError,
    proto::rr::{Name, RData},
};

use super::Service;
use crate::FederationError;

/// How long one name server may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a question is repeated.
const ATTEMPTS: usize = 2;
/// Answers that are remembered, for as long as they say.
const CACHED: u64 = 4_096;
/// Answers are remembered no longer than this, whatever they say.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Why a name has no answer: not that there is none, but that it could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DnsError(pub String);

/// Something that looks names up.
pub trait Dns: std::fmt::Debug + Send + Sync + 'static {
    /// The A and AAAA records of a name, following CNAME records; none if there are none.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>>;

    /// The SRV records of a name; none if there are none.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Service>, DnsError>>;
}

/// The name servers and the hosts file of this machine.
pub struct SystemDns(TokioResolver);

impl SystemDns {
    /// Reads the configuration of the machine (`/etc/resolv.conf`, `/etc/hosts`).
    pub fn new() -> Result<Self, FederationError> {
        let unusable =
            |error: NetError| FederationError::Settings(format!("the system's name servers: {error}"));
        let mut builder = TokioResolver::builder_tokio().map_err(unusable)?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = CACHED;
        options.positive_max_ttl = Some(LONGEST);
        options.negative_max_ttl = Some(LONGEST);
        builder.build().map(Self).map_err(unusable)
    }
}

impl std::fmt::Debug for SystemDns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SystemDns")
    }
}

/// Names of servers are whole: the search domains of this machine are not theirs. A name of one label may be one of the
/// local network.
fn absolute(name: &str) -> Result<Name, DnsError> {
    let mut parsed = Name::from_ascii(name).map_err(|error| DnsError(error.to_string()))?;
    parsed.set_fqdn(name.trim_end_matches('.').contains('.'));
    Ok(parsed)
}

fn none_if_absent<T>(outcome: Result<Vec<T>, NetError>) -> Result<Vec<T>, DnsError> {
    match outcome {
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        outcome => outcome.map_err(|error| DnsError(error.to_string())),
    }
}

impl Dns for SystemDns {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            let found = self.0.lookup_ip(absolute(name)?).await;
            none_if_absent(found.map(|found| found.iter().collect()))
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Service>, DnsError>> {
        Box::pin(async move {
            let found = self.0.srv_lookup(absolute(name)?).await;
            none_if_absent(found.map(|found| {
                let service = |data: &RData| match data {
                    RData::SRV(record) => Some(Service {
                        priority: record.priority,
                        weight: record.weight,
                        port: record.port,
                        target: record.target.to_ascii(),
                    }),
                    _ => None,
                };
                found.answers().iter().filter_map(|record| service(&record.data)).collect()
            }))
        })
    }
}
