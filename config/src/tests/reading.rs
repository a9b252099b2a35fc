//! Settings from files: what is read, and what is said about what can't be.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use insta::assert_snapshot;

use super::{errors, parse};
use crate::{Config, Engine, Place, TimeSpan, Tls};

#[test]
fn without_a_file_the_defaults_hold() {
    assert_eq!(Config::load(None, []), Ok(Config::default()));
    let config = Config::default();
    assert_eq!(config.server_name.as_str(), "localhost:8008");
    assert_eq!(config.public_base_url().as_str(), "http://localhost:8008/");
    assert_eq!(config.federation_address().as_str(), "localhost:8008");
    assert!(config.holds_calls() && config.call_addresses() == [Ipv4Addr::LOCALHOST]);
    assert!(
        config.listeners.iter().all(|listener| listener.address.ip().is_loopback() && listener.tls.is_none())
    );
    assert_eq!(config.store_path(), PathBuf::from("./data/store"));
}

#[test]
fn settings_that_follow_from_others() {
    let config =
        parse("server_name = \"example.org\"\ndata_dir = \"/var/lib/entente\"").expect("valid settings");
    assert!(!config.holds_calls() && config.call_addresses().is_empty());
    assert_eq!(config.public_base_url().as_str(), "https://example.org/");
    assert_eq!(config.federation_address().as_str(), "example.org:443");
    let names: Vec<_> = config.acme_domains().into_iter().map(String::from).collect();
    assert_eq!(names, ["example.org"]);
    assert_eq!(config.store_path(), Path::new("/var/lib/entente/store"));
    assert_eq!(config.sled_path(), Path::new("/var/lib/entente/sled"));
    assert_eq!(config.media_path(), Path::new("/var/lib/entente/media"));
    assert_eq!(config.acme_cache_dir(), Path::new("/var/lib/entente/acme"));
    assert_eq!(config.admin_socket(), Path::new("/var/lib/entente/admin.sock"));

    let config = parse("public_base_url = \"https://matrix.example.org/chat\"").expect("valid settings");
    assert_eq!(config.public_base_url().as_str(), "https://matrix.example.org/chat/");
    assert_eq!(config.federation_address().as_str(), "matrix.example.org:443");

    let config = parse("server_name = \"[2001:db8::1]:8448\"").expect("valid settings");
    assert_eq!(config.public_base_url().as_str(), "https://[2001:db8::1]:8448/");
    assert_eq!(config.federation_address().as_str(), "[2001:db8::1]:8448");
    assert!(config.acme_domains().is_empty());
}

#[test]
fn a_whole_file() {
    let config = parse(
        r#"
        server_name = "example.org"

        [[listeners]]
        address = "0.0.0.0:443"
        tls = { acme = true }
        [[listeners]]
        address = "[::]:8448"
        serves = ["federation"]
        trusted_proxies = ["127.0.0.0/8"]
        tls = { certificate_file = "a.pem", private_key_file = "b.pem" }

        [acme]
        terms_of_service_agreed = true

        [storage]
        engine = "postgresql"
        postgresql.url = "postgresql://localhost/entente"

        [login]
        access_token_lifetime = "7 days"

        [rate_limits]
        login_by_address = { per_second = 3, burst = 1 }
        "#,
    )
    .expect("valid settings");
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners.first().and_then(|listener| listener.tls.clone()), Some(Tls::Acme));
    assert_eq!(config.storage.engine, Engine::Postgresql);
    assert_eq!(config.login.access_token_lifetime, Some(TimeSpan::days(7)));
    assert!((config.rate_limits.login_by_address.per_second.as_f64() - 3.0).abs() < f64::EPSILON);
    assert_eq!(config.rate_limits.login_by_account, Config::default().rate_limits.login_by_account);
}

#[test]
fn unknown_settings_are_refused_with_a_suggestion() {
    assert_snapshot!(errors(
        r#"
server_name = "example.org"
datadir = "/srv"
registration_open = true
zzz = 1
listeners = [{ address = "127.0.0.1:1", tsl = { acme = true } }]

[registration]
opne = true

[storage.fjall]
cahce_size = "1 GiB"
quux = 1

[regsitration]
open = true
"#
    ), @r#"
entente.toml:3:1: unknown setting "datadir"; did you mean "data_dir"?
entente.toml:4:1: unknown setting "registration_open"; did you mean "registration.open"?
entente.toml:5:1: unknown setting "zzz"; known here: server_name, public_base_url, data_dir, listeners, acme, storage, media, registration, login, accounts, rooms, presence, push, rate_limits, federation, outbound, identity_servers, application_services, calls, turn, support, limits, log, metrics, admin
entente.toml:6:41: unknown setting "listeners.0.tsl"; did you mean "listeners.0.tls"?
entente.toml:9:1: unknown setting "registration.opne"; did you mean "registration.open"?
entente.toml:12:1: unknown setting "storage.fjall.cahce_size"; did you mean "storage.fjall.cache_size"?
entente.toml:13:1: unknown setting "storage.fjall.quux"; known here: path, cache_size, journal_size, memtable_size
entente.toml:15:2: unknown setting "regsitration"; did you mean "registration"?
"#);
}

#[test]
fn wrong_types_are_refused_with_what_is_expected() {
    assert_snapshot!(errors(
        r#"
server_name = "https://example.org"
public_base_url = "matrix.example.org"
data_dir = 7

[[listeners]]
address = "localhost:8008"
[[listeners]]
address = "127.0.0.1:8009"
serves = ["client", "federatoin", "media"]
trusted_proxies = ["10.0.0.1/33"]
[[listeners]]
serves = ["client"]

[registration]
open = "yes"
tokens = 1
reserved_localparts = "admin"

[media]
max_upload_size = "many"
store = 3

[storage]
engine = "postgres"
fjall = "store"
postgresql.max_connections = 0

[login]
login_token_lifetime = 30
openid_token_lifetime = "30"

[limits]
max_connections = -1
max_requests_in_flight = 99999999999999999999
request_timeout = 2026-01-01

[rate_limits]
enabled = [true]
login_by_account = { burst = 3 }
requests_by_user = { per_second = 0.0, burst = 3 }

[accounts]
minimum_password_length = 8.5
"#
    ), @r#"
entente.toml:2:15: server_name: expected a server name such as "example.org", "example.org:8448" or "[2001:db8::1]:8448", found "https://example.org"
entente.toml:3:19: public_base_url: expected a URL such as "https://matrix.example.org/", found "matrix.example.org"
entente.toml:4:12: data_dir: expected a path, found 7
entente.toml:7:11: listeners.0.address: expected an address with a port, such as "127.0.0.1:8008" or "[::1]:8008", found "localhost:8008"
entente.toml:10:21: listeners.1.serves.1: expected "client" or "federation", found "federatoin"; did you mean "federation"?
entente.toml:10:35: listeners.1.serves.2: expected "client" or "federation", found "media"
entente.toml:11:20: listeners.1.trusted_proxies.0: expected an address range such as "192.0.2.0/24", found "10.0.0.1/33"
entente.toml:12:1: listeners.2: "address" is missing
entente.toml:16:8: registration.open: expected a boolean, found "yes"
entente.toml:17:10: registration.tokens: expected a boolean, found 1
entente.toml:18:23: registration.reserved_localparts: expected a list, found "admin"
entente.toml:21:19: media.max_upload_size: expected a whole number of bytes, such as "64 MiB", found "many"
entente.toml:22:9: media.store: expected "files" or "s3", found 3
entente.toml:25:10: storage.engine: expected "fjall", "postgresql", "memory" or "sled", found "postgres"; did you mean "postgresql"?
entente.toml:26:9: storage.fjall: expected a table, found "store"
entente.toml:27:30: storage.postgresql.max_connections: expected a whole number from 1 to 4294967295, found 0
entente.toml:30:24: login.login_token_lifetime: expected a length of time with its unit, such as "30 s", "5 min" or "7 days", found 30
entente.toml:31:25: login.openid_token_lifetime: expected a length of time with its unit, such as "30 s", "5 min" or "7 days", found "30"
entente.toml:34:19: limits.max_connections: expected a whole number from 1 to 4294967295, found -1
entente.toml:35:26: limits.max_requests_in_flight: expected a whole number from 1 to 4294967295, found a huge number
entente.toml:36:19: limits.request_timeout: expected a length of time with its unit, such as "30 s", "5 min" or "7 days", found a date
entente.toml:39:11: rate_limits.enabled: expected a boolean, found a list
entente.toml:40:20: rate_limits.login_by_account: "per_second" is missing
entente.toml:41:35: rate_limits.requests_by_user.per_second: expected a number from 0.000001 to 1000000, found 0
entente.toml:44:27: accounts.minimum_password_length: expected a whole number from 0 to 4294967295, found 8.5
"#);
}

#[test]
fn a_certificate_comes_from_one_place() {
    assert_snapshot!(errors(
        r#"
[[listeners]]
address = "0.0.0.0:443"
tls = { certificate_file = "a.pem" }
[[listeners]]
address = "0.0.0.0:444"
tls = { certificate_file = "a.pem", private_key_file = "b.pem", acme = true }
[[listeners]]
address = "0.0.0.0:445"
tls = true
"#
    ), @r#"
entente.toml:4:7: listeners.0.tls: certificate_file and private_key_file are needed, or else acme = true
entente.toml:7:7: listeners.1.tls: a certificate comes either from files or from acme, not from both
entente.toml:10:7: listeners.2.tls: expected a table, found true
"#);
}

#[test]
fn what_is_not_toml_is_refused() {
    assert_snapshot!(errors("server_name = example.org\n[registration\nopen = true\n"), @r#"
entente.toml:1:15: not valid TOML: string values must be quoted, expected literal string
entente.toml:2:14: not valid TOML: unclosed table, expected `]`
"#);
    assert_snapshot!(errors("[log]\nfilter = \"info\"\nfilter = \"debug\"\n"), @r#"entente.toml:3:1: not valid TOML: duplicate key"#);
}

#[test]
fn rooms_have_a_known_version() {
    let config = parse("[rooms]\ndefault_room_version = \"10\"").expect("valid settings");
    assert_eq!(config.rooms.default_room_version.to_string(), "10");
    assert_eq!(Config::default().rooms.default_room_version.to_string(), "12");
    assert_snapshot!(errors("[rooms]\ndefault_room_version = \"13\""), @r#"entente.toml:2:24: rooms.default_room_version: expected a version of rooms, "1" to "12", found "13""#);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error =
        Config::load(Some(Path::new("/nowhere/entente.toml")), []).expect_err("there is no such file");
    assert_snapshot!(error, @r#"/nowhere/entente.toml: cannot be read: No such file or directory (os error 2)"#);
}

#[test]
fn a_file_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("entente.toml");
    std::fs::write(&path, "server_name = \"example.org\"").expect("the file is written");
    let config = Config::load(Some(&path), []).expect("valid settings");
    assert_eq!(config.server_name.as_str(), "example.org");
}

#[test]
fn problems_can_be_told_apart() {
    let error = parse("# ü\n[log]\n  fromat = \"json\"").expect_err("an unknown setting");
    let [problem] = error.problems() else { panic!("one problem: {error}") };
    let place = Place::File { name: "entente.toml".into(), line: 3, column: 3 };
    assert_eq!(problem.place(), Some(&place));
    assert_eq!(problem.setting(), Some("log.fromat"));
    assert_eq!(problem.message(), "unknown setting \"log.fromat\"; did you mean \"log.format\"?");
}
