//! Rate limits: who is counted by what, and what the refused are told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Answer, Server, Settings};
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const CHEAP: Settings<'static> = &[
    ("ENTENTE_REGISTRATION__OPEN", "true"),
    ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
    ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
];

fn server(limits: Settings<'_>) -> Server {
    Server::with_only(&[CHEAP, limits].concat())
}

fn login(user: &str, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

fn assert_told_when(answer: Answer) {
    let retry_after: u64 = answer.header("retry-after").parse().unwrap();
    let body = answer.refused(429, "M_LIMIT_EXCEEDED");
    let millis = body["retry_after_ms"].as_u64().unwrap();
    assert!(millis > 0 && retry_after == millis.div_ceil(1_000), "{retry_after} s, {millis} ms");
}

#[tokio::test]
async fn logins_are_limited_by_address() {
    let server = server(&[("ENTENTE_RATE_LIMITS__LOGIN_BY_ADDRESS", "{ per_second = 0.01, burst = 3 }")]);
    let anonymous = server.anonymous();
    for number in 0..3 {
        let body = login(&format!("user{number}"), PASSWORD);
        anonymous.post("/_matrix/client/v3/login", &body).await.refused(403, "M_FORBIDDEN");
    }
    assert_told_when(anonymous.post("/_matrix/client/v3/login", &login("user4", PASSWORD)).await);
    anonymous.get("/_matrix/client/versions").await.ok();
}

#[tokio::test]
async fn guessing_a_password_is_limited_by_account_whoever_guesses() {
    let server = server(&[
        ("ENTENTE_LISTENERS", r#"[{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8"] }]"#),
        ("ENTENTE_RATE_LIMITS__FAILED_LOGIN_BY_ACCOUNT", "{ per_second = 0.01, burst = 2 }"),
    ]);
    server.register("alice", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let from = async |address: String, user: &str, password: &str| {
        let request = server.anonymous().request(Method::POST, "/_matrix/client/v3/login");
        Answer::to(request.header("X-Forwarded-For", address).json(&login(user, password))).await
    };
    for guess in 0..2 {
        from(format!("198.51.100.{guess}"), "alice", "wrong").await.refused(403, "M_FORBIDDEN");
    }
    assert_told_when(from("198.51.100.77".into(), "alice", "wrong").await);
    assert_told_when(from("198.51.100.78".into(), "alice", PASSWORD).await);
    from("198.51.100.77".into(), "bob", PASSWORD).await.ok();
}

#[tokio::test]
async fn an_ipv6_subscriber_counts_as_one() {
    let server = server(&[
        ("ENTENTE_LISTENERS", r#"[{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8"] }]"#),
        ("ENTENTE_RATE_LIMITS__LOGIN_BY_ADDRESS", "{ per_second = 0.01, burst = 1 }"),
    ]);
    let from = async |address: &str| {
        let request = server.anonymous().request(Method::POST, "/_matrix/client/v3/login");
        Answer::to(request.header("X-Forwarded-For", address).json(&login("nobody", PASSWORD))).await
    };
    from("2001:db8:1:1::1").await.refused(403, "M_FORBIDDEN");
    assert_told_when(from("2001:db8:1:1:ffff::2").await);
    from("2001:db8:1:2::1").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_is_known_is_counted_by_name() {
    let server = server(&[
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_USER", "{ per_second = 0.01, burst = 2 }"),
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_ADDRESS", "{ per_second = 1000, burst = 1000 }"),
    ]);
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    for _ in 0..2 {
        alice.get("/_matrix/client/v3/account/whoami").await.ok();
    }
    assert_told_when(alice.get("/_matrix/client/v3/account/whoami").await);
    bob.get("/_matrix/client/v3/account/whoami").await.ok();
}

#[tokio::test]
async fn nobody_is_believed_who_is_no_trusted_proxy() {
    let server = server(&[("ENTENTE_RATE_LIMITS__LOGIN_BY_ADDRESS", "{ per_second = 0.01, burst = 1 }")]);
    let from = async |address: &str| {
        let request = server.anonymous().request(Method::POST, "/_matrix/client/v3/login");
        Answer::to(request.header("X-Forwarded-For", address).json(&login("nobody", PASSWORD))).await
    };
    from("198.51.100.1").await.refused(403, "M_FORBIDDEN");
    assert_told_when(from("198.51.100.2").await);
}

#[tokio::test]
async fn too_many_requests_at_once_are_sent_away() {
    // Each login occupies a place while its password is hashed, which is made slow here.
    let server = Server::with_only(&[
        ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
        ("ENTENTE_LIMITS__MAX_REQUESTS_IN_FLIGHT", "2"),
        ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "6"),
    ]);
    let attempts: Vec<_> = (0..12)
        .map(|_| {
            let anonymous = server.anonymous();
            tokio::spawn(async move {
                anonymous.post("/_matrix/client/v3/login", &login("nobody", PASSWORD)).await
            })
        })
        .collect();
    let (mut answered, mut sent_away) = (0, 0);
    for attempt in attempts {
        let answer = attempt.await.unwrap();
        if answer.status == 503 {
            assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
            sent_away += 1;
        } else {
            answer.refused(403, "M_FORBIDDEN");
            answered += 1;
        }
    }
    assert!(answered >= 2 && sent_away >= 1, "{answered} answered, {sent_away} sent away");
    server.anonymous().get("/_matrix/client/versions").await.ok();
}
