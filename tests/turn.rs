//! STUN and TURN beside HTTP, on one port with TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use entente_tests::{Server, User, free_port};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const TRANSACTION: &[u8; 12] = b"one and only";
/// Types of messages (RFC 8489, section 5; RFC 8656, section 17).
const BINDING: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const ALLOCATE: [u8; 2] = [0x00, 0x03];
const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
/// REQUESTED-TRANSPORT: UDP.
const OVER_UDP: [u8; 8] = [0x00, 0x19, 0, 4, 17, 0, 0, 0];

/// Sends a request and answers the answer's type and attributes.
async fn ask(stream: &mut TlsStream<TcpStream>, kind: [u8; 2], attributes: &[u8]) -> ([u8; 2], Vec<u8>) {
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    let request = [&kind[..], &length, &COOKIE, TRANSACTION, attributes].concat();
    stream.write_all(&request).await.unwrap();
    let mut header = [0; 20];
    timeout(entente_tests::SOON, stream.read_exact(&mut header)).await.expect("an answer").unwrap();
    assert_eq!((&header[4..8], &header[8..]), (&COOKIE[..], &TRANSACTION[..]));
    let mut attributes = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
    stream.read_exact(&mut attributes).await.unwrap();
    ([header[0], header[1]], attributes)
}

#[tokio::test]
async fn relays_are_reached_on_the_port_of_https() {
    let directory = tempfile::TempDir::new().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("certificate.pem"), cert.pem()).unwrap();
    std::fs::write(directory.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    let (listened, port) = (free_port(), free_port().to_string());
    let listeners = format!(
        r#"[{{ address = "127.0.0.1:0" }}, {{ address = "127.0.0.1:{listened}",
             tls = {{ certificate_file = "certificate.pem", private_key_file = "key.pem" }} }}]"#
    );
    let server = Server::start(
        directory,
        &[
            ("ENTENTE_LISTENERS", &listeners),
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_CALLS__ADDRESSES", "[\"127.0.0.1\"]"),
            ("ENTENTE_TURN__ENABLED", "true"),
            ("ENTENTE_TURN__PORT", &port),
        ],
    );
    let alice = User::register(&server, "alice").await;
    let told = alice.get("/_matrix/client/v3/voip/turnServer").await.ok();
    let uris: Vec<&str> = told["uris"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(uris.contains(&format!("turns:localhost:{listened}?transport=tcp").as_str()), "{uris:?}");

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let settings = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", listened)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(settings)).connect(name, stream).await.unwrap();
    assert_eq!(ask(&mut stream, BINDING, &[]).await.0, BINDING_SUCCESS);
    let (kind, attributes) = ask(&mut stream, ALLOCATE, &OVER_UDP).await;
    assert_eq!(kind, ALLOCATE_ERROR);
    // Who asks has to show who they are: there is a realm, the server's name.
    let realm = b"localhost:8008";
    assert!(attributes.windows(realm.len()).any(|window| window == realm));

    let root = Certificate::from_pem(cert.pem().as_bytes()).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let versions = client.get(format!("https://localhost:{listened}/_matrix/client/versions"));
    let versions: Value =
        serde_json::from_str(&versions.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_ne!(versions["versions"], json!(null), "HTTP goes on");
}
