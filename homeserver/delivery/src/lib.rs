//! Push: users are told of events while they are not looking, by the gateways that their clients name (Push Gateway API).
//!
//! A follower of the log asks the push rules of everybody who has a pusher, once for each event, and puts down what is to be sent, in the
//! transaction that moves its cursor. A worker for each pusher sends what is oldest, and deletes it once the gateway took it.

mod badges;
mod changes;
mod error;
mod follower;
mod gateway;
mod payload;
mod pushers;
mod rows;
mod worker;

use std::{collections::HashMap, sync::Arc};

use entente_accounts::Accounts;
use entente_environment::Environment;
use entente_outbound::Route;
use entente_rooms::{RoomNumber, Rooms};
use entente_storage::Store;
use entente_sync::Sync;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use self::{badges::Badges, gateway::Gateways};
pub use self::{
    changes::{Change, TOPIC},
    error::DeliveryError,
    pushers::{Format, Pusher},
    rows::KEYSPACES,
};

/// Gateways that are asked at the same time.
const AT_ONCE: usize = 100;

/// The pushers of one server's users. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

struct Inner {
    environment: Environment,
    store: Store,
    accounts: Accounts,
    rooms: Rooms,
    sync: Sync,
    settings: entente_config::Push,
    gateways: Gateways,
    badges: Badges,
    /// Who is woken when something waits for a pusher, by its number.
    workers: Mutex<HashMap<u64, Arc<Notify>>>,
    places: Semaphore,
    /// Those of the local users in a room who have pushers, by localpart. Forgotten when the log tells that somebody came, went, or set a
    /// pusher.
    audiences: Mutex<HashMap<RoomNumber, Arc<[String]>>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Delivery {
    /// The pushers in `store`. Nothing is sent until [`Delivery::follow`] runs; then by this route, but for gateways inside the network.
    pub fn new(
        environment: Environment,
        store: Store,
        accounts: Accounts,
        rooms: Rooms,
        sync: Sync,
        settings: entente_config::Push,
        route: Route,
    ) -> Result<Self, DeliveryError> {
        let inner = Inner {
            gateways: Gateways::new(&settings, route)?,
            badges: Badges::default(),
            workers: Mutex::new(HashMap::new()),
            places: Semaphore::new(AT_ONCE),
            audiences: Mutex::new(HashMap::new()),
            environment,
            store,
            accounts,
            rooms,
            sync,
            settings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}
