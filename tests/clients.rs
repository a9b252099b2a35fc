//! Unmodified clients against the server. `tests/run` installs what they need.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use entente_tests::{Server, Settings, run_well};

const SETTINGS: Settings<'static> = &[("ENTENTE_LOGIN__REFRESHABLE_ACCESS_TOKEN_LIFETIME", "15s")];

fn clients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs a client with the server's URL and a registration token as its arguments.
fn drive(client: &mut Command) {
    let server = Server::with(SETTINGS);
    let token = run_well(&mut server.command(&["admin", "registration-token"]), "");
    let url = server.base_url.replace("127.0.0.1", "localhost");
    let output = client.arg(url).arg(token).output();
    let output = output.expect("the client is not installed: run tests/run once");
    let (printed, failed) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{failed}\n{}", server.log());
}

#[test]
fn matrix_nio_uses_an_account() {
    let directory = clients().join("nio");
    drive(Command::new(directory.join(".venv/bin/python")).arg(directory.join("account.py")));
}

#[tokio::test]
async fn matrix_nio_and_matrix_js_sdk_talk_end_to_end_encrypted() {
    let server = Server::open();
    server.register("nio", "correct horse battery staple").await;
    server.register("jess", "correct horse battery staple").await;
    let url = server.base_url.replace("127.0.0.1", "localhost");
    let (nio, js_sdk) = (clients().join("nio"), clients().join("js-sdk"));
    let keys = tempfile::TempDir::new().expect("a directory for keys");
    let started = |command: &mut Command| {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the client is not installed: run tests/run once")
    };
    let jess =
        started(Command::new("node").arg(js_sdk.join("encrypted.mjs")).args([&url, "@nio:localhost:8008"]));
    let nio = started(
        Command::new(nio.join(".venv/bin/python"))
            .arg(nio.join("encrypted.py"))
            .arg(&url)
            .arg(keys.path())
            .arg("@jess:localhost:8008"),
    );
    for client in [nio, jess] {
        let output = client.wait_with_output().expect("the client's output");
        let (printed, failed) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{failed}\n{}", server.log());
    }
}

#[test]
fn matrix_js_sdk_uses_an_account() {
    let directory = clients().join("js-sdk");
    assert!(directory.join("node_modules").is_dir(), "the client is not installed: run tests/run once");
    drive(Command::new("node").arg(directory.join("account.mjs")));
}
