//! Settings that are valid one by one, and not together.

use insta::assert_snapshot;

use super::{errors, parse, variables};
use crate::Config;

#[test]
fn engines() {
    assert_snapshot!(errors("[storage]\nengine = \"postgresql\""), @r#"entente.toml:2:10: storage.engine: the engine "postgresql" needs storage.postgresql.url"#);
    assert_snapshot!(errors("[storage]\nengine = \"memory\""), @r#"entente.toml:2:10: storage.engine: the engine "memory" forgets everything when the program ends; set storage.allow_data_loss = true if that is meant"#);
    assert_snapshot!(errors("[storage]\n\nengine = \"sled\"\nallow_data_loss = false"), @r#"entente.toml:3:10: storage.engine: the engine "sled" does not survive power cuts; set storage.allow_data_loss = true if that is meant"#);
    assert!(parse("[storage]\nengine = \"memory\"\nallow_data_loss = true").is_ok());
    assert!(parse("[storage]\nengine = \"sled\"\nallow_data_loss = true").is_ok());
    assert_snapshot!(
        errors("[storage.fjall]\njournal_size = \"1 MiB\"\nmemtable_size = \"1 KiB\"\n"), @r#"
entente.toml:2:16: storage.fjall.journal_size: at least 64 MiB is needed
entente.toml:3:17: storage.fjall.memtable_size: at least 1 MiB is needed
"#);
}

#[test]
fn media_stores() {
    assert_snapshot!(
        errors("[media]\nstore = \"s3\"\nmax_upload_size = 0\n[media.s3]\nbucket = \"\"\nendpoint = \"ftp://x/\""), @r#"
entente.toml:2:9: media.store: the store "s3" needs media.s3.access_key_id
entente.toml:2:9: media.store: the store "s3" needs media.s3.bucket
entente.toml:2:9: media.store: the store "s3" needs media.s3.secret_access_key
entente.toml:3:19: media.max_upload_size: nothing could be uploaded
entente.toml:6:12: media.s3.endpoint: an http or https address is needed
"#);
}

#[test]
fn media_bounds() {
    assert_snapshot!(errors("[media]\nunauthenticated_before = \"2026-02-30\""), @r#"entente.toml:2:26: media.unauthenticated_before: expected a day, such as "2026-12-31", found "2026-02-30""#);
    assert_snapshot!(errors(
        r#"
[media]
upload_timeout = "0 s"
[media.thumbnails]
sizes = [{ width = 4096, height = 32, method = "crop" }]
[media.previews]
user_agent = ""
"#
    ), @r#"
entente.toml:3:18: media.upload_timeout: more than nothing is needed
entente.toml:5:10: media.thumbnails.sizes.0: at most 2048 pixels a side are made
entente.toml:7:14: media.previews.user_agent: expected printable ASCII characters
"#);
    assert!(parse("[media]\nunauthenticated_before = \"2026-02-28\"").is_ok());
}

#[test]
fn listeners() {
    assert_snapshot!(errors("listeners = []"), @r#"entente.toml:1:13: listeners: without a listener nobody can reach the server"#);
    assert_snapshot!(errors(
        r#"
[metrics]
address = "127.0.0.1:80"

[[listeners]]
address = "127.0.0.1:80"
serves = []
[[listeners]]
address = "127.0.0.1:80"
[[listeners]]
address = "127.0.0.1:0"
[[listeners]]
address = "127.0.0.1:0"
"#
    ), @r#"
entente.toml:3:11: metrics.address: a listener already has 127.0.0.1:80
entente.toml:7:10: listeners.0.serves: a listener that serves nothing is of no use
entente.toml:9:11: listeners.1.address: another listener already has 127.0.0.1:80
"#);
}

#[test]
fn certificates_of_an_authority() {
    assert_snapshot!(errors(
        r#"
server_name = "192.0.2.1"
[[listeners]]
address = "0.0.0.0:443"
tls = { acme = true }

[acme]
directory_url = "http://authority.example/"
"#
    ), @r#"
entente.toml:5:7: listeners.0.tls: acme.domains is needed: the host of the public base URL is not a domain name
entente.toml:5:7: listeners.0.tls: no certificate is issued before acme.terms_of_service_agreed = true: read the authority's terms
entente.toml:8:17: acme.directory_url: an authority is spoken to over https only
"#);
}

#[test]
fn federation() {
    assert_snapshot!(errors("[federation]\nallow = [\"example.org\"]"), @r#"entente.toml:2:9: federation.allow: under federation.policy = "open" every server is allowed; set it to "closed" to speak only to these, or remove the list"#);
    assert_snapshot!(errors("[federation]\npolicy = \"disabled\"\nallow = [\"example.org\"]"), @r#"entente.toml:3:9: federation.allow: under federation.policy = "disabled" no server is spoken to; set it to "closed" to speak only to these, or remove the list"#);
    assert_snapshot!(errors(
        r#"
[federation]
policy = "closed"
allow = ["example.net", "example.org"]
deny = ["example.org"]
"#
    ), @r#"entente.toml:4:25: federation.allow.1: "example.org" is in federation.deny as well"#);
    assert!(parse("[federation]\npolicy = \"closed\"\nallow = [\"example.org\"]").is_ok());
}

#[test]
fn buckets() {
    let settings = |text: &str| parse(&format!("[media.s3]\n{text}"));
    assert!(settings("endpoint = \"http://192.0.2.1:9000\"").is_err(), "no bucket is in front of an address");
    assert!(settings("endpoint = \"http://192.0.2.1:9000\"\npath_style = true").is_ok());
    assert!(settings("endpoint = \"https://s3.example.org\"").is_ok());
    assert!(settings("prefix = \"ministry/chat\"").is_ok());
    for prefix in ["", "/a", "a//b", "../a", "a b"] {
        assert!(settings(&format!("prefix = \"{prefix}\"")).is_err(), "{prefix}");
    }
}

#[test]
fn relays_of_media() {
    assert_snapshot!(errors(
        r#"
[calls]
enabled = true
addresses = ["192.0.2.1"]
udp_port = 3478
tcp_port = 3478
[turn]
enabled = true
secret = "short"
"#
    ), @r#"
entente.toml:5:12: turn.port: two things cannot be served on one UDP port
entente.toml:6:12: turn.port: two things cannot be served on one TCP port
entente.toml:9:10: turn.secret: at least 32 bytes are needed
"#);
    // Without calls nothing else is on their port.
    assert!(
        parse(
            "[calls]\nenabled = false\naddresses = [\"192.0.2.1\"]\nudp_port = 3478\n[turn]\nenabled = true"
        )
        .is_ok()
    );
}

#[test]
fn support_contacts() {
    assert_snapshot!(errors(
        r#"
[[support.contacts]]
role = "m.role.admin"
matrix_id = "@admin:example.org"
[[support.contacts]]
role = "m.role.security"
"#
    ), @r#"entente.toml:5:1: support.contacts.1: a contact needs an email_address or a matrix_id"#);
}

#[test]
fn passwords_tokens_and_limits() {
    assert_snapshot!(errors(
        r#"
[accounts]
minimum_password_length = 600
validity_period = "0 s"
argon2 = { memory_kib = 16, parallelism = 4 }

[login]
refresh_token_lifetime = "1 min"

[limits]
max_client_body = "1 KiB"
header_timeout = "0 s"
"#
    ), @r#"
entente.toml:3:27: accounts.minimum_password_length: no password is long enough for this and short enough for accounts.maximum_password_bytes
entente.toml:4:19: accounts.validity_period: more than nothing is needed
entente.toml:5:25: accounts.argon2.memory_kib: Argon2 needs at least 8 KiB for each of accounts.argon2.parallelism lanes
entente.toml:8:26: login.refresh_token_lifetime: a refresh token has to outlive the access token (login.refreshable_access_token_lifetime)
entente.toml:11:19: limits.max_client_body: at least 128 KiB is needed
entente.toml:12:18: limits.header_timeout: more than nothing is needed
"#);
}

#[test]
fn public_base_urls() {
    assert_snapshot!(errors("public_base_url = \"ftp://example.org/\""), @r#"entente.toml:1:19: public_base_url: expected an http or https address without user, query and fragment"#);
    assert_snapshot!(errors("public_base_url = \"https://me:secret@example.org/?a#b\""), @r#"entente.toml:1:19: public_base_url: expected an http or https address without user, query and fragment"#);
    assert_snapshot!(errors("public_base_url = \"https://my_host/\""), @r#"entente.toml:1:19: public_base_url: other servers can't be told this host; set federation.public_address"#);
    assert!(
        parse("public_base_url = \"https://my_host/\"\nfederation.public_address = \"a.example\"").is_ok()
    );
}

#[test]
fn a_variable_is_named_where_it_is_at_fault() {
    let environment = variables(&[("ENTENTE_STORAGE__ENGINE", "memory")]);
    let error =
        Config::parse("[storage]\nengine = \"fjall\"", "entente.toml", environment).expect_err("refused");
    assert_snapshot!(error, @r#"ENTENTE_STORAGE__ENGINE: storage.engine: the engine "memory" forgets everything when the program ends; set storage.allow_data_loss = true if that is meant"#);
}

/// A misspelt `url` is not missing as well.
#[test]
fn consequences_of_other_problems_are_not_reported() {
    assert_snapshot!(errors("[storage]\nengine = \"postgresql\"\npostgresql.ulr = \"postgresql://localhost/\""), @r#"entente.toml:3:12: unknown setting "storage.postgresql.ulr"; did you mean "storage.postgresql.url"?"#);
    assert_snapshot!(errors("[stroage]\npostgresql.url = \"x\"\n[storage]\nengine = \"postgresql\""), @r#"entente.toml:1:2: unknown setting "stroage"; did you mean "storage"?"#);
    assert_snapshot!(errors("[log]\nformat = \"xml\"\n[storage]\nengine = \"postgresql\""), @r#"
entente.toml:2:10: log.format: expected "human" or "json", found "xml"
entente.toml:4:10: storage.engine: the engine "postgresql" needs storage.postgresql.url
"#);
}

#[test]
fn proxies() {
    assert_snapshot!(errors("[outbound]\nproxy = \"https://u:p@proxy.example/x\"\nproxy_username = \"u\""), @r#"
entente.toml:2:9: outbound.proxy: expected http://host:port or socks5://host:port
entente.toml:2:9: outbound.proxy: the user and the password have settings of their own
entente.toml:3:18: outbound.proxy_username: a user needs a password, and a password a user
"#);
    assert_snapshot!(errors("[outbound]\nproxy_username = \"u\"\nproxy_password = \"p\""), @r#"
entente.toml:2:18: outbound.proxy_username: it is for a proxy, and outbound.proxy names none
entente.toml:3:18: outbound.proxy_password: it is for a proxy, and outbound.proxy names none
"#);
    for proxy in ["http://proxy.example:3128", "socks5://[::1]:1080", "http://10.1.2.3"] {
        assert!(parse(&format!("[outbound]\nproxy = \"{proxy}\"")).is_ok(), "{proxy}");
    }
}

#[test]
fn identity_servers() {
    assert_snapshot!(errors("[[identity_servers]]\nname = \"id.example\"\nurl = \"ftp://x/\""), @"entente.toml:3:7: identity_servers.0.url: an http or https address without a user or a query is needed");
    assert!(parse("[[identity_servers]]\nname = \"id.example\"").is_ok());
}
