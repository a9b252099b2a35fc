//! Settings from environment variables.

use insta::assert_snapshot;

use super::variables;
use crate::{ByteSize, Config, Engine, LogFormat, PerSecond};

fn load(pairs: &[(&str, &str)]) -> Config {
    Config::load(None, variables(pairs)).unwrap_or_else(|error| panic!("{error}"))
}

fn errors(pairs: &[(&str, &str)]) -> String {
    Config::load(None, variables(pairs)).expect_err("the variables are refused").to_string()
}

#[test]
fn variables_set_settings_of_every_type() {
    let config = load(&[
        ("ENTENTE_SERVER_NAME", "example.org"),
        ("ENTENTE_STORAGE__ENGINE", "memory"),
        ("ENTENTE_STORAGE__ALLOW_DATA_LOSS", " true "),
        ("ENTENTE_STORAGE__FJALL__CACHE_SIZE", "1048576"),
        ("ENTENTE_STORAGE__POSTGRESQL__MAX_CONNECTIONS", "3"),
        ("ENTENTE_MEDIA__MAX_UPLOAD_SIZE", "5 MiB"),
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_REGISTRATION__RESERVED_LOCALPARTS", "[\"boss\"]"),
        ("ENTENTE_LISTENERS", "[{ address = \"[::1]:0\", serves = [\"client\"] }]"),
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_USER__PER_SECOND", "2"),
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_USER__BURST", "3"),
        ("ENTENTE_LOG__FORMAT", "\"json\""),
    ]);
    assert_eq!(config.server_name.as_str(), "example.org");
    assert_eq!(config.storage.engine, Engine::Memory);
    assert_eq!(config.storage.fjall.cache_size, ByteSize::mebibytes(1));
    assert_eq!(config.storage.postgresql.max_connections.get(), 3);
    assert_eq!(config.media.max_upload_size, ByteSize::mebibytes(5));
    assert!(config.registration.open);
    assert_eq!(config.registration.reserved_localparts, ["boss".parse().expect("a localpart")]);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(Ok(config.rate_limits.requests_by_user.per_second), PerSecond::try_from(2.0));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn variables_prevail_over_the_file() {
    let file = "server_name = \"a.example\"\n[log]\nfilter = \"warn\"\nformat = \"json\"";
    let environment = variables(&[("ENTENTE_LOG__FILTER", "debug")]);
    let config = Config::parse(file, "entente.toml", environment).expect("valid settings");
    assert_eq!(config.server_name.as_str(), "a.example");
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.log.format, LogFormat::Json);
}

/// A setting that is a text takes what looks like something else.
#[test]
fn texts_may_look_like_numbers() {
    for text in
        ["0123", "1_000", "12", "1.50", "true", "2026-01-01", "[1]", "99999999999999999999", "a\nb", ""]
    {
        assert_eq!(load(&[("ENTENTE_LOG__FILTER", text)]).log.filter, text);
        assert_eq!(load(&[("ENTENTE_MEDIA__S3__BUCKET", text)]).media.s3.bucket.as_deref(), Some(text));
    }
    let config = load(&[("ENTENTE_MEDIA__S3__SECRET_ACCESS_KEY", "0123"), ("ENTENTE_DATA_DIR", "7")]);
    assert_eq!(config.media.s3.secret_access_key.as_ref().map(crate::Secret::reveal), Some("0123"));
    assert_eq!(config.data_dir.to_str(), Some("7"));
}

#[test]
fn other_variables_are_none_of_our_business() {
    let environment = [
        ("PATH", "/bin"),
        ("ENTENTE", "x"),
        ("MY_ENTENTE_LOG", "x"),
        ("ENTENTE_CONFIG", "/etc/entente.toml"),
        ("ENTENTE_BIN", "target/debug/entente"),
        ("ENTENTE_TEST_DATABASE", "postgresql://localhost"),
        ("ENTENTE_SERVICE_HOST", "10.0.0.1"),
        ("ENTENTE_PORT", "tcp://10.0.0.1:8008"),
        ("ENTENTE_PORT_8008_TCP", "tcp://10.0.0.1:8008"),
    ];
    assert_eq!(load(&environment), Config::default());
}

#[test]
fn unknown_and_wrong_variables_are_refused_by_name() {
    assert_snapshot!(errors(&[
        ("ENTENTE_REGISTRATION_OPEN", "true"),
        ("ENTENTE_REGISTRATION__OPNE", "true"),
        ("ENTENTE_REGSITRATION__OPEN", "true"),
        ("ENTENTE_ZZZ", "true"),
        ("ENTENTE_", "true"),
        ("ENTENTE_LOG____FILTER", "true"),
        ("ENTENTE_LOGIN__PASSWORD", "perhaps"),
        ("ENTENTE_ACME", "true"),
        ("ENTENTE_LIMITS__MAX_CONNECTIONS", "0"),
        ("ENTENTE_LIMITS__REQUEST_TIMEOUT", "30"),
        ("ENTENTE_STORAGE__ENGINE", "5"),
        ("ENTENTE_LISTENERS", "[]"),
        ("ENTENTE_LISTENERS__0__ADDRESS", "127.0.0.1:80"),
        ("ENTENTE_SERVER_NAME__X", "1"),
    ]), @r#"
ENTENTE_: no setting has this name: ENTENTE_<SECTION>__<SETTING> is expected
ENTENTE_ACME: acme: expected a table, found true
ENTENTE_LIMITS__MAX_CONNECTIONS: limits.max_connections: expected a whole number from 1 to 4294967295, found 0
ENTENTE_LIMITS__REQUEST_TIMEOUT: limits.request_timeout: expected a length of time with its unit, such as "30 s", "5 min" or "7 days", found "30"
ENTENTE_LISTENERS__0__ADDRESS: listeners is a list: set it as a whole, as in ENTENTE_LISTENERS='[…]'
ENTENTE_LOGIN__PASSWORD: login.password: expected a boolean, found "perhaps"
ENTENTE_LOG____FILTER: no setting has this name: ENTENTE_<SECTION>__<SETTING> is expected
ENTENTE_REGISTRATION_OPEN: unknown setting "registration_open"; did you mean ENTENTE_REGISTRATION__OPEN?
ENTENTE_REGISTRATION__OPNE: unknown setting "registration.opne"; did you mean ENTENTE_REGISTRATION__OPEN?
ENTENTE_REGSITRATION__OPEN: unknown setting "regsitration"; did you mean ENTENTE_REGISTRATION__OPEN?
ENTENTE_SERVER_NAME__X: server_name: expected a string, found a table
ENTENTE_STORAGE__ENGINE: storage.engine: expected "fjall", "postgresql", "memory" or "sled", found "5"
ENTENTE_ZZZ: unknown setting "zzz"; known here: server_name, public_base_url, data_dir, listeners, acme, storage, media, registration, login, accounts, rooms, presence, push, rate_limits, federation, outbound, identity_servers, application_services, calls, turn, support, limits, log, metrics, admin
"#);
}
