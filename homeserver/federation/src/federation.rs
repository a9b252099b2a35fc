use std::sync::Arc;

use entente_accounts::Accounts;
use entente_environment::{Environment, Timestamp};
use entente_outbound::Route;
use entente_rooms::Rooms;
use entente_storage::Store;
use ruma::{OwnedServerName, ServerName};

use crate::{
    Client, Destinations, FederationError, IdentityServers, Keys, Outbox, Policy, Previews, SharedRooms,
    discovery::{Dns, SystemDns},
};

/// This server among others: everything that goes between them. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    /// With whom it speaks.
    pub policy: Policy,
    /// Requests to them.
    pub client: Client,
    /// Everybody's signing keys.
    pub keys: Keys,
    /// The rooms that are shared.
    pub rooms: SharedRooms,
    /// What is sent to them.
    pub outbox: Outbox,
    /// Rooms that only they are in.
    pub previews: Previews,
    /// Who knows which user an address belongs to.
    pub identity_servers: IdentityServers,
    environment: Environment,
}

impl std::fmt::Debug for Federation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Federation").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Federation {
    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// Opens what a store knows of other servers, which are reached by this route.
    pub async fn open(
        store: Store,
        environment: Environment,
        accounts: Accounts,
        rooms: Rooms,
        settings: entente_config::Federation,
        identity_servers: &[entente_config::IdentityServer],
        route: &Route,
    ) -> Result<Self, FederationError> {
        let dns: Arc<dyn Dns> = Arc::new(SystemDns::new()?);
        let policy = Policy::new(rooms.server_name().to_owned(), settings.clone());
        let destinations = Destinations::open(store.clone(), environment.clone()).await?;
        let signing_keys = rooms.signing_keys().clone();
        let client = Client::new(
            policy.clone(),
            destinations,
            signing_keys.clone(),
            environment.clone(),
            dns,
            &settings,
            route,
        )?;
        rooms.ask_policy_servers_through(Arc::new(client.clone()));
        let notaries: Vec<OwnedServerName> =
            settings.key_notaries.iter().filter_map(|name| ServerName::parse(name.as_str()).ok()).collect();
        let keys = Keys::new(store.clone(), environment.clone(), signing_keys, client.clone(), notaries);
        let shared = SharedRooms::new(rooms.clone(), Arc::new(client.clone()), Arc::new(keys.clone()));
        let outbox = Outbox::new(store, environment.clone(), accounts, rooms, client.clone());
        let previews = Previews::new(client.clone(), environment.clone());
        let identity_servers = IdentityServers::new(identity_servers, route)?;
        Ok(Self { policy, client, keys, rooms: shared, outbox, previews, identity_servers, environment })
    }
}
