//! What other servers tell of their users' presence, under a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use entente_accounts::{
    AccountError, Accounts, KEYSPACES, Presence,
    PresenceState::{self, Offline, Online},
    Settings,
};
use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_storage::{Catalogue, Schema, Store, engine::memory::Disk};
use ruma::{UserId, server_name, user_id};

fn bob() -> &'static UserId {
    user_id!("@bob:other.example")
}

struct Home {
    store: Store,
    accounts: Accounts,
    clock: Arc<ManualClock>,
}

impl Home {
    async fn new() -> Self {
        let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
        let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        let environment = Environment::new(clock.clone(), Randomness::from_seed(1));
        let name = server_name!("example.org").to_owned();
        let accounts = Accounts::open(store.clone(), environment, name, Settings::default()).await.unwrap();
        Self { store, accounts, clock }
    }

    async fn hear(&self, state: PresenceState, status_msg: Option<&str>) {
        let status_msg = status_msg.map(str::to_owned);
        let presence = Presence { state, status_msg, last_active_at: Some(1) };
        self.accounts.hear_presences_elsewhere(&[(bob().to_owned(), presence)]).await.unwrap();
    }

    /// Whether anything was written since.
    async fn is_quiet(&self, during: impl Future<Output = ()>) -> bool {
        let before = self.store.published();
        during.await;
        self.store.published() == before
    }

    fn wait(&self, minutes: u64) {
        self.clock.advance(Duration::from_secs(60 * minutes));
    }
}

#[tokio::test]
async fn what_is_told_is_known_and_what_is_told_again_costs_nothing() {
    let home = Home::new().await;
    assert!(matches!(home.accounts.presence(bob()).await, Err(AccountError::UserNotFound)));
    assert!(home.is_quiet(home.hear(Offline, None)).await, "of whom nothing is known is not here anyway");
    home.hear(Online, Some("au bureau")).await;
    let known = home.accounts.presence(bob()).await.unwrap();
    assert_eq!((known.state, known.status_msg.as_deref()), (Online, Some("au bureau")));
    assert!(home.is_quiet(home.hear(Online, Some("au bureau"))).await);
    home.hear(Online, Some(&"x".repeat(1_025))).await;
    assert_eq!(home.accounts.presence(bob()).await.unwrap().status_msg, None, "too long to be kept");
}

#[tokio::test]
async fn whoever_nothing_is_heard_of_is_not_here_any_more() {
    let home = Home::new().await;
    home.hear(Online, None).await;
    home.wait(25);
    home.hear(Online, None).await;
    home.wait(25);
    assert_eq!(home.accounts.forget_silent_presences().await.unwrap(), 0, "it was told again meanwhile");
    assert_eq!(home.accounts.presence(bob()).await.unwrap().state, Online);
    home.wait(5);
    assert_eq!(home.accounts.forget_silent_presences().await.unwrap(), 1);
    assert!(matches!(home.accounts.presence(bob()).await, Err(AccountError::UserNotFound)));
}
