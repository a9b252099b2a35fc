//! Who is here, under a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use entente_accounts::{AccountError, Accounts, KEYSPACES, PresenceState, Settings};
use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_storage::{Catalogue, Schema, Store, engine::memory::Disk};
use ruma::{UserId, server_name, user_id};

use PresenceState::{Offline, Online, Unavailable};

const START: u64 = 1_700_000_000_000;

fn alice() -> &'static UserId {
    user_id!("@alice:example.org")
}

struct Home {
    store: Store,
    accounts: Accounts,
    clock: Arc<ManualClock>,
}

impl Home {
    async fn new(disk: &Disk) -> Self {
        let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
        let store = Store::open(disk.open().unwrap(), schema).await.unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp(START)));
        let environment = Environment::new(clock.clone(), Randomness::from_seed(1));
        let name = server_name!("example.org").to_owned();
        let accounts = Accounts::open(store.clone(), environment, name, Settings::default()).await.unwrap();
        Self { store, accounts, clock }
    }

    /// What is told of alice after so many seconds more.
    async fn after(&self, seconds: u64) -> PresenceState {
        self.clock.advance(Duration::from_secs(seconds));
        self.accounts.tell_presences().await.unwrap();
        self.accounts.presence(alice()).await.unwrap().state
    }

    /// A request for news that comes and is answered at once.
    fn poll(&self, device_id: &str, state: PresenceState) {
        drop(self.accounts.attend(alice(), device_id, state));
    }
}

#[tokio::test]
async fn who_waits_is_here_and_gone_half_a_minute_later() {
    let home = Home::new(&Disk::new()).await;
    let waiting = home.accounts.attend(alice(), "PHONE", Online);
    assert_eq!(home.after(1).await, Online);
    let told = home.store.published();
    assert_eq!(home.after(200).await, Online, "a request may wait for long");
    drop(waiting);
    for _ in 0..3 {
        home.poll("PHONE", Online);
        assert_eq!(home.after(29).await, Online);
    }
    assert_eq!(home.store.published(), told, "that somebody is still here is written nowhere");
    assert_eq!(home.after(1).await, Offline);
    assert_ne!(home.store.published(), told);
    let told = home.store.published();
    home.poll("PHONE", Offline);
    assert_eq!(home.after(1).await, Offline);
    assert_eq!(home.store.published(), told);
}

#[tokio::test]
async fn the_device_that_is_most_here_counts() {
    let home = Home::new(&Disk::new()).await;
    home.poll("PHONE", Unavailable);
    assert_eq!(home.after(0).await, Unavailable);
    home.poll("DESK", Online);
    assert_eq!(home.after(20).await, Online);
    home.poll("PHONE", Unavailable);
    assert_eq!(home.after(10).await, Unavailable, "the desk was left");
    home.accounts.set_presence(alice(), "PHONE", Offline, None).await.unwrap();
    assert_eq!(home.after(0).await, Offline, "and the phone says that it is not here");
}

#[tokio::test]
async fn who_does_nothing_for_five_minutes_is_not_available() {
    let home = Home::new(&Disk::new()).await;
    let _waiting = home.accounts.attend(alice(), "PHONE", Online);
    assert_eq!(home.after(299).await, Online);
    assert_eq!(home.after(1).await, Unavailable);
    assert_eq!(home.accounts.presence(alice()).await.unwrap().last_active_at, Some(START));
    home.poll("PHONE", Online);
    assert_eq!(home.after(1).await, Unavailable, "to ask for news again is not to do something");
    home.accounts.note_activity(alice());
    assert_eq!(home.after(0).await, Online);
    let presence = home.accounts.presence(alice()).await.unwrap();
    assert_eq!(presence.last_active_at, Some(START + 301_000));
    assert_eq!(home.accounts.last_active_ago(&presence), Some(0));
}

#[tokio::test]
async fn a_status_stays_until_another_is_set() {
    let home = Home::new(&Disk::new()).await;
    let status = async || home.accounts.presence(alice()).await.unwrap().status_msg;
    home.accounts.set_presence(alice(), "PHONE", Online, Some("en réunion")).await.unwrap();
    assert_eq!(status().await.as_deref(), Some("en réunion"));
    assert_eq!(home.after(31).await, Offline);
    assert_eq!(status().await.as_deref(), Some("en réunion"));
    let long = "x".repeat(1_025);
    let refused = home.accounts.set_presence(alice(), "PHONE", Online, Some(&long)).await;
    assert!(matches!(refused, Err(AccountError::TooLarge(_))));
    home.accounts.set_presence(alice(), "PHONE", Online, None).await.unwrap();
    assert_eq!(status().await, None);
    home.accounts.forget_presence("alice").await.unwrap();
    home.accounts.forget_presence("alice").await.unwrap();
    assert_eq!(home.accounts.presence(alice()).await.unwrap().state, Offline);
}

#[tokio::test]
async fn whom_a_crash_left_here_may_come_back() {
    let disk = Disk::new();
    let home = Home::new(&disk).await;
    home.poll("PHONE", Online);
    assert_eq!(home.after(0).await, Online);
    home.store.close().await.unwrap();

    let home = Home::new(&disk).await;
    home.accounts.expect_back().await.unwrap();
    let told = home.store.published();
    assert_eq!(home.after(29).await, Online);
    home.poll("PHONE", Online);
    assert_eq!(home.after(29).await, Online);
    assert_eq!(home.store.published(), told, "nobody noticed");
    assert_eq!(home.after(1).await, Offline);
}

#[tokio::test]
async fn another_node_is_contradicted_only_by_who_is_here() {
    let home = Home::new(&Disk::new()).await;
    let waiting = home.accounts.attend(alice(), "PHONE", Unavailable);
    assert_eq!(home.after(0).await, Unavailable);
    let told = home.store.published();
    // There she is online: that is not for this node to change.
    home.accounts.hear_presence("alice", Online);
    assert_eq!(home.after(0).await, Unavailable);
    assert_eq!(home.store.published(), told);
    drop(waiting);
    assert_eq!(home.after(30).await, Offline);
}
