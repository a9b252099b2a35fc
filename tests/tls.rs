//! Listeners with TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use entente_tests::{SOON, Server};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::{Certificate, Client};

/// Writes a certificate for localhost and its key. Answers the certificate.
fn write_certificate(directory: &Path) -> Certificate {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("certificate.pem"), cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), signing_key.serialize_pem()).unwrap();
    Certificate::from_pem(cert.pem().as_bytes()).unwrap()
}

async fn versions(server: &Server, root: &Certificate) -> Result<reqwest::Response, reqwest::Error> {
    let client = Client::builder().no_proxy().tls_certs_only([root.clone()]).build().unwrap();
    let port = server.base_url.rsplit_once(':').unwrap().1;
    client.get(format!("https://localhost:{port}/_matrix/client/versions")).send().await
}

#[tokio::test]
async fn certificates_come_from_files_and_are_read_again_at_a_hangup() {
    let directory = tempfile::TempDir::new().unwrap();
    let first = write_certificate(directory.path());
    let listeners = r#"[{ address = "127.0.0.1:0", tls = { certificate_file = "certificate.pem", private_key_file = "key.pem" } }]"#;
    let server = Server::start(directory, &[("ENTENTE_LISTENERS", listeners)]);
    let answer = versions(&server, &first).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);

    let second = write_certificate(server.directory());
    versions(&server, &second).await.unwrap_err();
    server.signal("HUP");
    let reloaded = tokio::time::timeout(SOON, async {
        while versions(&server, &second).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    reloaded.await.expect("the new certificate is not served");
    versions(&server, &first).await.unwrap_err();

    std::fs::write(server.directory().join("certificate.pem"), "nonsense").unwrap();
    server.signal("HUP");
    let noticed = tokio::time::timeout(SOON, async {
        while !server.log().contains("certificate kept as it was") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    noticed.await.expect("a broken certificate is not reported");
    versions(&server, &second).await.unwrap();
}
