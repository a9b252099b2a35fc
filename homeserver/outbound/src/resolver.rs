use std::{fmt, future::Future, io, net::IpAddr, pin::Pin, sync::Arc};

use crate::AddressPolicy;

/// The addresses of a name, some time.
pub type Resolution<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of names.
pub trait Lookup: fmt::Debug + Send + Sync + 'static {
    /// All addresses of the name, those included that nobody may contact.
    fn lookup<'a>(&'a self, host: &'a str) -> Resolution<'a>;
}

/// The system's own resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, host: &'a str) -> Resolution<'a> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// All addresses of a name are denied. It is in the chain of sources of the error that a request then fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this server does not contact addresses there")]
pub struct AddressRefused;

/// Resolves names, and keeps from the caller every address that the policy denies.
#[derive(Clone, Debug)]
pub struct GuardedResolver {
    policy: Arc<AddressPolicy>,
    lookup: Arc<dyn Lookup>,
}

impl GuardedResolver {
    /// A resolver that asks `lookup` and obeys `policy`.
    pub fn new(policy: Arc<AddressPolicy>, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy, lookup }
    }

    /// Whether an address may be contacted.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.policy.allows(address)
    }

    /// The addresses of a name that may be contacted. A name that has addresses of which none may be is refused with
    /// [`AddressRefused`], inside the `io::Error`.
    pub async fn resolve_name(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.lookup.lookup(host).await?;
        let had_some = !found.is_empty();
        let allowed: Vec<IpAddr> = found.into_iter().filter(|&address| self.policy.allows(address)).collect();
        if allowed.is_empty() && had_some {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, AddressRefused));
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<IpAddr>);

    impl Lookup for Fixed {
        fn lookup<'a>(&'a self, _: &'a str) -> Resolution<'a> {
            Box::pin(async { Ok(self.0.clone()) })
        }
    }

    async fn resolve(addresses: &[&str]) -> io::Result<Vec<IpAddr>> {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let policy = Arc::new(AddressPolicy::public_internet());
        GuardedResolver::new(policy, Arc::new(Fixed(addresses))).resolve_name("example.org").await
    }

    #[tokio::test]
    async fn denied_addresses_are_kept_back() {
        let found = resolve(&["10.0.0.1", "9.9.9.9", "::1"]).await.expect("one is allowed");
        assert_eq!(found, ["9.9.9.9".parse::<IpAddr>().expect("an address")]);
        let error = resolve(&["127.0.0.1", "169.254.169.254"]).await.expect_err("none is allowed");
        let inner = error.get_ref().expect("a reason");
        assert!(inner.is::<AddressRefused>(), "{inner}");
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_not_refused() {
        assert_eq!(resolve(&[]).await.expect("nothing to deny"), Vec::<IpAddr>::new());
    }
}
