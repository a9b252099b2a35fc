//! Secrets in the settings.

use insta::assert_snapshot;

use super::{errors, parse, variables};
use crate::{Config, Secret};

fn url_of(config: &Config) -> Option<&str> {
    config.storage.postgresql.url.as_ref().map(Secret::reveal)
}

#[test]
fn a_secret_stands_in_the_file_or_in_one_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("url");
    std::fs::write(&path, "postgresql://localhost/\n").expect("the file is written");
    let path = path.to_str().expect("a path in UTF-8");

    let config = parse("storage.postgresql.url = \"postgresql://here/\"").expect("valid settings");
    assert_eq!(url_of(&config), Some("postgresql://here/"));
    let config = parse(&format!("storage.postgresql.url = {{ file = {path:?} }}")).expect("valid settings");
    assert_eq!(url_of(&config), Some("postgresql://localhost/"));

    // By environment, over either form in the file.
    for file in ["", "storage.postgresql.url = \"x\"", "storage.postgresql.url = { file = \"/nowhere\" }"] {
        let environment = variables(&[("ENTENTE_STORAGE__POSTGRESQL__URL__FILE", path)]);
        let config = Config::parse(file, "entente.toml", environment).expect("valid settings");
        assert_eq!(url_of(&config), Some("postgresql://localhost/"));
        let environment = variables(&[("ENTENTE_STORAGE__POSTGRESQL__URL", "postgresql://there/")]);
        let config = Config::parse(file, "entente.toml", environment).expect("valid settings");
        assert_eq!(url_of(&config), Some("postgresql://there/"));
    }
}

#[test]
fn no_form_of_the_settings_shows_a_secret() {
    let text = "storage.postgresql.url = \"swordfish\"\nmedia.s3.secret_access_key = \"swordfish\"";
    let config = parse(text).expect("valid settings");
    assert!(!format!("{config:?}").contains("swordfish"));
    assert!(!toml::to_string(&config).expect("settings have a TOML form").contains("swordfish"));
}

#[test]
fn faults_are_reported_without_the_secret() {
    assert_snapshot!(errors("[storage.postgresql]\nurl = { file = \"/nowhere/url\" }"), @r#"entente.toml:2:7: storage.postgresql.url: cannot read /nowhere/url: No such file or directory (os error 2)"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = \"\""), @r#"entente.toml:2:7: storage.postgresql.url: the secret is empty"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = 271828"), @r#"entente.toml:2:7: storage.postgresql.url: expected a string or { file = "/path/to/file" }"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = 2.71828"), @r#"entente.toml:2:7: storage.postgresql.url: expected a string or { file = "/path/to/file" }"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = [\"swordfish\"]"), @r#"entente.toml:2:7: storage.postgresql.url: expected a string or { file = "/path/to/file" }"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = { text = \"swordfish\" }"), @r#"entente.toml:2:7: storage.postgresql.url: unknown key "text"; known here: file"#);
    assert_snapshot!(errors("[storage.postgresql]\nurl = { }"), @r#"entente.toml:2:7: storage.postgresql.url: "file" is missing"#);
}
