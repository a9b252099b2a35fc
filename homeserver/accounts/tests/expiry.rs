//! What time does to tokens and sessions, under a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use entente_accounts::{
    AccountError, Accounts, Argon2Parameters, KEYSPACES, NewAccount, Operation, RegistrationToken,
    SessionRequest, Settings,
};
use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_storage::{Catalogue, Schema, Store, engine::memory::Disk};
use ruma::{UserId, server_name, user_id};

fn alice() -> &'static UserId {
    user_id!("@alice:example.org")
}

struct Home {
    accounts: Accounts,
    clock: Arc<ManualClock>,
}

async fn home(settings: Settings) -> Home {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    let environment = Environment::new(clock.clone(), Randomness::from_seed(1));
    let argon2 = Argon2Parameters { memory_kib: 64, iterations: 1, parallelism: 1 };
    let settings = Settings { argon2, ..settings };
    let accounts =
        Accounts::open(store, environment, server_name!("example.org").to_owned(), settings).await.unwrap();
    let alice = NewAccount {
        username: Some("alice".to_owned()),
        password: Some("correct horse".to_owned()),
        ..NewAccount::default()
    };
    accounts.create_user(&alice).await.unwrap();
    Home { accounts, clock }
}

fn minutes(number: u64) -> Duration {
    Duration::from_secs(60 * number)
}

#[tokio::test]
async fn short_lived_tokens_end_in_time_and_are_swept() {
    let Home { accounts, clock } = home(Settings::default()).await;
    let (login_token, lifetime) = accounts.create_login_token(alice()).await.unwrap();
    let openid = accounts.create_openid_token(alice()).await.unwrap();
    let asked = accounts.prove_identity(Operation::Deactivate, alice(), None).await;
    assert!(matches!(asked, Err(AccountError::Interactive(_))));
    assert_eq!(accounts.delete_expired().await.unwrap(), 0, "nothing has expired yet");

    clock.advance(lifetime);
    let refused = accounts.take_login_token(&login_token).await.unwrap_err();
    assert!(matches!(refused, AccountError::InvalidLoginToken));
    assert_eq!(accounts.openid_user(&openid.access_token).await.unwrap(), alice());

    let (_unused, _) = accounts.create_login_token(alice()).await.unwrap();
    clock.advance(minutes(30));
    assert_eq!(accounts.delete_expired().await.unwrap(), 2, "the login token and the interactive session");
    assert_eq!(accounts.openid_user(&openid.access_token).await.unwrap(), alice(), "lives for an hour");
    clock.advance(minutes(30));
    let refused = accounts.openid_user(&openid.access_token).await.unwrap_err();
    assert!(matches!(refused, AccountError::UnknownToken { soft_logout: false }));
    assert_eq!(accounts.delete_expired().await.unwrap(), 1);
    assert_eq!(accounts.delete_expired().await.unwrap(), 0);
}

#[tokio::test]
async fn access_tokens_end_as_the_operator_says() {
    let settings = Settings {
        access_token_lifetime: Some(minutes(60)),
        refresh_token_lifetime: Some(minutes(120)),
        ..Settings::default()
    };
    let Home { accounts, clock } = home(settings).await;
    let fixed = accounts.create_session("alice", &SessionRequest::default()).await.unwrap();
    assert_eq!(fixed.expires_in, Some(minutes(60)));
    let request = SessionRequest { refresh_token: true, ..SessionRequest::default() };
    let refreshable = accounts.create_session("alice", &request).await.unwrap();
    assert_eq!(refreshable.expires_in, Some(minutes(5)));

    clock.advance(minutes(5));
    accounts.authenticate(&fixed.access_token, None).await.unwrap();
    let expired = accounts.authenticate(&refreshable.access_token, None).await.unwrap_err();
    assert!(matches!(expired, AccountError::UnknownToken { soft_logout: true }));
    accounts.delete_expired().await.unwrap();
    let still_soft = accounts.authenticate(&refreshable.access_token, None).await.unwrap_err();
    assert!(
        matches!(still_soft, AccountError::UnknownToken { soft_logout: true }),
        "sweeping forgets no session"
    );

    clock.advance(minutes(60));
    assert!(accounts.authenticate(&fixed.access_token, None).await.is_err());
    let refresh_token = refreshable.refresh_token.unwrap();
    let renewed = accounts.refresh(&refresh_token).await.unwrap();
    accounts.authenticate(&renewed.access_token, None).await.unwrap();
    clock.advance(minutes(120));
    assert!(accounts.refresh(&renewed.refresh_token.unwrap()).await.is_err(), "unused for two hours");
}

#[tokio::test]
async fn an_account_is_valid_until_its_time_and_can_be_renewed() {
    let settings = Settings { validity: Some(minutes(60)), ..Settings::default() };
    let Home { accounts, clock } = home(settings).await;
    let session = accounts.create_session("alice", &SessionRequest::default()).await.unwrap();
    clock.advance(minutes(59));
    accounts.authenticate(&session.access_token, None).await.unwrap();
    clock.advance(minutes(1));
    let refused = accounts.authenticate(&session.access_token, None).await.unwrap_err();
    assert!(matches!(refused, AccountError::AccountExpired));
    let refused = accounts.verify_password("alice", "correct horse").await.unwrap_err();
    assert!(matches!(refused, AccountError::AccountExpired));
    accounts.set_valid_until(alice(), Some(Timestamp(1_700_000_000_000).after(minutes(90)))).await.unwrap();
    accounts.authenticate(&session.access_token, None).await.unwrap();
}

#[tokio::test]
async fn registration_tokens_end_in_time() {
    let Home { accounts, clock } = home(Settings::default()).await;
    let expires_at = Some(Timestamp(1_700_000_000_000).after(minutes(10)));
    let new = RegistrationToken { expires_at, ..RegistrationToken::default() };
    let token = accounts.create_registration_token(&new).await.unwrap();
    assert!(accounts.is_registration_token_valid(&token).await.unwrap());
    clock.advance(minutes(10));
    assert!(!accounts.is_registration_token_valid(&token).await.unwrap());
    let same = RegistrationToken { token: token.clone(), ..RegistrationToken::default() };
    assert!(accounts.create_registration_token(&same).await.is_err(), "a text is given once");
    accounts.delete_registration_token(&token).await.unwrap();
    assert!(accounts.delete_registration_token(&token).await.is_err());
}

#[tokio::test]
async fn a_store_belongs_to_one_server_name() {
    let schema = || Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let disk = Disk::new();
    let open = async |name: &str| {
        let store = Store::open(disk.open().unwrap(), schema()).await.unwrap();
        let name = ruma::OwnedServerName::try_from(name).unwrap();
        Accounts::open(store, Environment::system(), name, Settings::default()).await
    };
    open("example.org").await.unwrap();
    open("example.org").await.unwrap();
    let refused = open("example.com").await.unwrap_err();
    assert!(matches!(refused, AccountError::OtherServer { pinned, .. } if pinned == "example.org"));
}
