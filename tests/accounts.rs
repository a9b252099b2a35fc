//! Accounts over HTTP: registering, logging in, sessions, devices, profiles, and what is kept for a user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, Server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";

fn login_body(user: &str, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

async fn log_in(server: &Server, user: &str, password: &str) -> Caller {
    let answer = server.anonymous().post("/_matrix/client/v3/login", &login_body(user, password)).await.ok();
    server.caller(answer["access_token"].as_str().unwrap())
}

#[tokio::test]
async fn the_first_administrator_registers_with_the_printed_token() {
    let server = Server::with(&[]);
    let token = server.first_token().unwrap().to_owned();
    let anonymous = server.anonymous();
    let path = "/_matrix/client/v3/register";
    let closed = anonymous.post(path, &json!({ "username": "root1", "password": PASSWORD })).await;
    assert_eq!(closed.status, StatusCode::UNAUTHORIZED);
    let session = closed.body["session"].as_str().unwrap();
    assert_eq!(
        closed.body["flows"],
        json!([{ "stages": ["m.login.registration_token", "m.login.dummy"] }]),
        "nobody registers without a token"
    );
    let auth = |stage: Value| {
        let mut auth = stage;
        auth["session"] = json!(session);
        json!({ "username": "alice", "password": PASSWORD, "auth": auth })
    };
    let dummy_only = anonymous.post(path, &auth(json!({ "type": "m.login.dummy" }))).await;
    assert_eq!(dummy_only.status, StatusCode::UNAUTHORIZED);
    let wrong =
        anonymous.post(path, &auth(json!({ "type": "m.login.registration_token", "token": "no" }))).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(wrong.body["errcode"], "M_UNAUTHORIZED");
    let right = auth(json!({ "type": "m.login.registration_token", "token": token }));
    let registered = anonymous.post(path, &right).await.ok();
    assert_eq!(registered["user_id"], "@alice:localhost:8008");

    let alice = server.caller(registered["access_token"].as_str().unwrap());
    let capabilities = alice.get("/_matrix/client/v3/capabilities").await.ok();
    assert_eq!(capabilities["capabilities"]["m.account_moderation"]["lock"], true, "alice administers");
    let validity = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
    assert_eq!(anonymous.get(&validity).await.ok()["valid"], false, "it was for one");
    let again = anonymous
        .post(
            path,
            &json!({ "username": "bob", "password": PASSWORD, "auth": {
        "type": "m.login.registration_token", "token": token } }),
        )
        .await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    let restarted = server.crash_and_restart();
    assert_eq!(restarted.first_token(), None, "there is an administrator");
    restarted
        .caller(alice.access_token.as_deref().unwrap())
        .get("/_matrix/client/v3/account/whoami")
        .await
        .ok();
}

#[tokio::test]
async fn names_follow_the_grammar_and_are_given_once() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    let anonymous = server.anonymous();
    let available = async |name: &str| {
        anonymous.get(&format!("/_matrix/client/v3/register/available?username={name}")).await
    };
    assert_eq!(available("bob").await.ok()["available"], true);
    available("alice").await.refused(400, "M_USER_IN_USE");
    available("ALICE").await.refused(400, "M_USER_IN_USE");
    for name in ["", "with%20space", "%C3%A9lodie", "a:b", "@alice", "admin", &"x".repeat(250)] {
        available(name).await.refused(400, "M_INVALID_USERNAME");
    }
    let body = |name: &str, password: &str| {
        json!({
        "username": name, "password": password, "auth": { "type": "m.login.dummy" } })
    };
    let path = "/_matrix/client/v3/register";
    anonymous.post(path, &body("alice", PASSWORD)).await.refused(400, "M_USER_IN_USE");
    anonymous.post(path, &body("bob", "short")).await.refused(400, "M_WEAK_PASSWORD");
    anonymous.post(path, &body("bob", &"x".repeat(513))).await.refused(400, "M_WEAK_PASSWORD");
    anonymous.post(&format!("{path}?kind=guest"), &json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let nameless =
        anonymous.post(path, &json!({ "password": PASSWORD, "auth": { "type": "m.login.dummy" } })).await;
    assert!(nameless.ok()["user_id"].as_str().unwrap().len() > "@:localhost:8008".len());
    let without_session = json!({ "username": "carol", "password": PASSWORD, "inhibit_login": true,
        "auth": { "type": "m.login.dummy" } });
    let registered = anonymous.post(path, &without_session).await.ok();
    assert_eq!(registered["user_id"], "@carol:localhost:8008");
    assert!(registered["access_token"].is_null() && registered["device_id"].is_null(), "{registered}");
}

#[tokio::test]
async fn one_name_goes_to_one_of_many_who_ask_at_once() {
    let server = Server::open();
    let attempts = (0..16).map(|_| {
        let anonymous = server.anonymous();
        let body = json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        tokio::spawn(async move { anonymous.post("/_matrix/client/v3/register", &body).await.status })
    });
    let mut winners = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            StatusCode::OK => winners += 1,
            status => assert_eq!(status, StatusCode::BAD_REQUEST),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_registration_token_is_used_as_often_as_it_may_be() {
    let server = Server::with(&[]);
    let token =
        entente_tests::run_well(&mut server.command(&["admin", "registration-token", "--uses", "2"]), "");
    let attempts = (0..12).map(|number| {
        let (anonymous, token) = (server.anonymous(), token.clone());
        tokio::spawn(async move {
            let path = "/_matrix/client/v3/register";
            let body =
                |auth: Value| json!({ "username": format!("u{number}"), "password": PASSWORD, "auth": auth });
            let first = json!({ "type": "m.login.registration_token", "token": token });
            let answer = anonymous.post(path, &body(first)).await;
            let session = answer.body["session"].clone();
            anonymous.post(path, &body(json!({ "type": "m.login.dummy", "session": session }))).await.status
        })
    });
    let mut registered = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        registered += u32::from(attempt.await.unwrap() == StatusCode::OK);
    }
    assert_eq!(registered, 2);
}

#[tokio::test]
async fn logging_in_takes_the_right_name_and_password() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    let anonymous = server.anonymous();
    let path = "/_matrix/client/v3/login";
    for user in ["alice", "@alice:localhost:8008", "ALICE"] {
        let session = anonymous.post(path, &login_body(user, PASSWORD)).await.ok();
        assert_eq!(session["user_id"], "@alice:localhost:8008");
    }
    anonymous.post(path, &login_body("alice", "wrong")).await.refused(403, "M_FORBIDDEN");
    anonymous.post(path, &login_body("nobody", PASSWORD)).await.refused(403, "M_FORBIDDEN");
    anonymous.post(path, &login_body("@alice:elsewhere.example", PASSWORD)).await.refused(403, "M_FORBIDDEN");
    anonymous.post(path, &login_body(&"x".repeat(100_000), PASSWORD)).await.refused(403, "M_FORBIDDEN");
    anonymous.post(path, &json!({ "type": "m.login.unheard_of" })).await.refused(400, "M_UNKNOWN");
    anonymous.post(path, &json!({})).await.refused(400, "M_BAD_JSON");
    anonymous
        .post(path, &json!({ "type": "m.login.password", "password": PASSWORD }))
        .await
        .refused(400, "M_MISSING_PARAM");
    let flows = anonymous.get(path).await.ok();
    assert_eq!(flows["flows"][0]["type"], "m.login.password");
}

#[tokio::test]
async fn a_device_that_logs_in_again_loses_its_old_token() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    let mut body = login_body("alice", PASSWORD);
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("Alice's phone");
    let path = "/_matrix/client/v3/login";
    let first = server.anonymous().post(path, &body).await.ok();
    let second = server.anonymous().post(path, &body).await.ok();
    assert_eq!((&first["device_id"], &second["device_id"]), (&json!("PHONE"), &json!("PHONE")));
    let whoami = "/_matrix/client/v3/account/whoami";
    server.caller(first["access_token"].as_str().unwrap()).get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    let alice = server.caller(second["access_token"].as_str().unwrap());
    assert_eq!(
        alice.get(whoami).await.ok(),
        json!({ "user_id": "@alice:localhost:8008", "device_id": "PHONE" })
    );
    body["device_id"] = json!("x".repeat(256));
    server.anonymous().post(path, &body).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn tokens_are_renewed_in_a_chain() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    let mut body = login_body("alice", PASSWORD);
    body["refresh_token"] = json!(true);
    let session = server.anonymous().post("/_matrix/client/v3/login", &body).await.ok();
    assert!(session["expires_in_ms"].as_u64().unwrap() > 0);
    let refresh = async |token: &Value| {
        server.anonymous().post("/_matrix/client/v3/refresh", &json!({ "refresh_token": token })).await
    };
    let whoami = async |token: &Value| {
        server.caller(token.as_str().unwrap()).get("/_matrix/client/v3/account/whoami").await
    };
    let lost = refresh(&session["refresh_token"]).await.ok();
    whoami(&session["access_token"]).await.ok();
    // The answer was lost on its way: the client asks again with what it has.
    let renewed = refresh(&session["refresh_token"]).await.ok();
    whoami(&lost["access_token"]).await.refused(401, "M_UNKNOWN_TOKEN");
    whoami(&renewed["access_token"]).await.ok();
    whoami(&session["access_token"]).await.refused(401, "M_UNKNOWN_TOKEN");
    refresh(&session["refresh_token"]).await.refused(401, "M_UNKNOWN_TOKEN");
    refresh(&json!("enr_made_up")).await.refused(401, "M_UNKNOWN_TOKEN");
    let next = refresh(&renewed["refresh_token"]).await.ok();
    whoami(&next["access_token"]).await.ok();
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout() {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_LOGIN__REFRESHABLE_ACCESS_TOKEN_LIFETIME", "1ms"),
    ]);
    server.register("alice", PASSWORD).await;
    let mut body = login_body("alice", PASSWORD);
    body["refresh_token"] = json!(true);
    let session = server.anonymous().post("/_matrix/client/v3/login", &body).await.ok();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let alice = server.caller(session["access_token"].as_str().unwrap());
    let refused = alice.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(refused["soft_logout"], true);
}

#[tokio::test]
async fn logging_out_ends_sessions() {
    let server = Server::open();
    let first = server.register("alice", PASSWORD).await;
    let second = log_in(&server, "alice", PASSWORD).await;
    let third = log_in(&server, "alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let whoami = "/_matrix/client/v3/account/whoami";
    second.post("/_matrix/client/v3/logout", &json!({})).await.ok();
    second.get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    first.get(whoami).await.ok();
    third.post("/_matrix/client/v3/logout/all", &json!({})).await.ok();
    first.get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    bob.get(whoami).await.ok();
    server.anonymous().get(whoami).await.refused(401, "M_MISSING_TOKEN");
    server.caller("ena_made_up").get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn devices_are_listed_renamed_and_deleted_by_their_owner() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let other = log_in(&server, "alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let whoami = other.get("/_matrix/client/v3/account/whoami").await.ok();
    let device_id = whoami["device_id"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/devices/{device_id}");
    alice.put(&path, &json!({ "display_name": "Laptop" })).await.ok();
    let device = alice.get(&path).await.ok();
    assert_eq!(device["display_name"], "Laptop");
    assert_eq!(device["last_seen_ip"], "127.0.0.1");
    let devices = alice.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 2);
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    bob.put(&path, &json!({ "display_name": "Mine" })).await.refused(404, "M_NOT_FOUND");

    let not_proved = bob.prove_and(Method::DELETE, &path, json!({}), "alice", PASSWORD).await;
    assert_eq!(not_proved.status, StatusCode::UNAUTHORIZED, "alice's password is no proof of bob");
    let wrong = alice.prove_and(Method::DELETE, &path, json!({}), "alice", "wrong").await;
    assert_eq!((wrong.status, &wrong.body["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN")));
    alice.prove_and(Method::DELETE, &path, json!({}), "alice", PASSWORD).await.ok();
    other.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");

    let more = log_in(&server, "alice", PASSWORD).await;
    let devices = alice.get("/_matrix/client/v3/devices").await.ok();
    let ids: Vec<&str> = devices["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["device_id"].as_str().unwrap())
        .collect();
    let body = json!({ "devices": ids });
    alice.prove_and(Method::POST, "/_matrix/client/v3/delete_devices", body, "alice", PASSWORD).await.ok();
    more.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_proof_is_good_for_one_operation_of_one_user() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let password_path = "/_matrix/client/v3/account/password";
    let asked = alice.post(password_path, &json!({ "new_password": "new password 1" })).await;
    let session = &asked.body["session"];
    let auth = json!({ "type": "m.login.password", "session": session, "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let weak = alice
        .post(password_path, &json!({ "new_password": "weak", "auth": auth, "logout_devices": false }))
        .await;
    weak.refused(400, "M_WEAK_PASSWORD");
    let by_session = json!({ "session": session });
    let elsewhere = alice.post("/_matrix/client/v3/account/deactivate", &json!({ "auth": by_session })).await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED, "proved for the password only");
    let stolen =
        bob.post(password_path, &json!({ "new_password": "new password 2", "auth": by_session })).await;
    assert_eq!(stolen.status, StatusCode::UNAUTHORIZED, "proved by alice only");
    let body = json!({ "new_password": "new password 1", "auth": by_session, "logout_devices": false });
    alice.post(password_path, &body).await.ok();
    let again = alice.post(password_path, &body).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED, "proved once");
    log_in(&server, "alice", "new password 1").await;
    server
        .anonymous()
        .post("/_matrix/client/v3/login", &login_body("alice", PASSWORD))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_new_password_ends_other_sessions() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let other = log_in(&server, "alice", PASSWORD).await;
    let body = json!({ "new_password": "another good password" });
    alice.prove_and(Method::POST, "/_matrix/client/v3/account/password", body, "alice", PASSWORD).await.ok();
    alice.get("/_matrix/client/v3/account/whoami").await.ok();
    other.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_deactivated_account_is_gone_and_its_name_is_not_free() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    alice
        .put("/_matrix/client/v3/profile/@alice:localhost:8008/displayname", &json!({ "displayname": "A" }))
        .await
        .ok();
    let path = "/_matrix/client/v3/account/deactivate";
    let answer = alice.prove_and(Method::POST, path, json!({ "erase": true }), "alice", PASSWORD).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "success");
    alice.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    let anonymous = server.anonymous();
    anonymous
        .post("/_matrix/client/v3/login", &login_body("alice", PASSWORD))
        .await
        .refused(403, "M_FORBIDDEN");
    anonymous.get("/_matrix/client/v3/register/available?username=alice").await.refused(400, "M_USER_IN_USE");
    anonymous
        .get("/_matrix/client/v3/profile/@alice:localhost:8008/displayname")
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_login_token_opens_one_session() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let path = "/_matrix/client/v1/login/get_token";
    let token =
        alice.prove_and(Method::POST, path, json!({}), "alice", PASSWORD).await.ok()["login_token"].clone();
    let body = json!({ "type": "m.login.token", "token": token });
    let session = server.anonymous().post("/_matrix/client/v3/login", &body).await.ok();
    assert_eq!(session["user_id"], "@alice:localhost:8008");
    server.anonymous().post("/_matrix/client/v3/login", &body).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn profiles_have_arbitrary_fields() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let path = |field: &str| format!("/_matrix/client/v3/profile/@alice:localhost:8008/{field}");
    alice.put(&path("displayname"), &json!({ "displayname": "Alice" })).await.ok();
    alice.put(&path("m.tz"), &json!({ "m.tz": "Europe/Paris" })).await.ok();
    alice
        .put(&path("org.example.pets"), &json!({ "org.example.pets": ["cat", { "name": "Tom" }] }))
        .await
        .ok();
    let profile = bob.get("/_matrix/client/v3/profile/@alice:localhost:8008").await.ok();
    let expected = json!({ "displayname": "Alice", "m.tz": "Europe/Paris", "org.example.pets": ["cat", { "name": "Tom" }] });
    assert_eq!(profile, expected);
    assert_eq!(bob.get(&path("m.tz")).await.ok(), json!({ "m.tz": "Europe/Paris" }));
    bob.put(&path("displayname"), &json!({ "displayname": "Mallory" })).await.refused(403, "M_FORBIDDEN");
    bob.delete(&path("displayname"), &json!({})).await.refused(403, "M_FORBIDDEN");
    alice.delete(&path("m.tz"), &json!({})).await.ok();
    bob.get(&path("m.tz")).await.refused(404, "M_NOT_FOUND");
    let long = "k".repeat(256);
    alice.put(&path(&long), &json!({ long.as_str(): 1 })).await.refused(400, "M_KEY_TOO_LARGE");
    let large = json!({ "org.example.large": "x".repeat(70_000) });
    alice.put(&path("org.example.large"), &large).await.refused(400, "M_PROFILE_TOO_LARGE");
    server
        .anonymous()
        .get("/_matrix/client/v3/profile/@nobody:localhost:8008")
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn account_data_and_filters_are_the_users_own() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let path = "/_matrix/client/v3/user/@alice:localhost:8008/account_data/org.example.settings";
    alice.put(path, &json!({ "theme": "dark" })).await.ok();
    assert_eq!(alice.get(path).await.ok(), json!({ "theme": "dark" }));
    bob.get(path).await.refused(403, "M_FORBIDDEN");
    bob.put(path, &json!({})).await.refused(403, "M_FORBIDDEN");
    let room_path =
        "/_matrix/client/v3/user/@alice:localhost:8008/rooms/!r:localhost:8008/account_data/m.tag";
    alice.put(room_path, &json!({ "tags": {} })).await.ok();
    assert_eq!(alice.get(room_path).await.ok(), json!({ "tags": {} }));
    alice
        .get("/_matrix/client/v3/user/@alice:localhost:8008/account_data/org.example.none")
        .await
        .refused(404, "M_NOT_FOUND");
    let managed = "/_matrix/client/v3/user/@alice:localhost:8008/account_data/m.push_rules";
    alice.put(managed, &json!({})).await.refused(405, "M_BAD_JSON");
    let long = format!("/_matrix/client/v3/user/@alice:localhost:8008/account_data/{}", "x".repeat(5_000));
    alice.put(&long, &json!({})).await.refused(413, "M_TOO_LARGE");
    alice.get(&long).await.refused(404, "M_NOT_FOUND");
    let answer = alice.request(Method::PUT, path).body("[1, 2]").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);

    let filter = json!({ "room": { "timeline": { "limit": 7 } } });
    let created = alice.post("/_matrix/client/v3/user/@alice:localhost:8008/filter", &filter).await.ok();
    let id = created["filter_id"].as_str().unwrap();
    let filter_path = format!("/_matrix/client/v3/user/@alice:localhost:8008/filter/{id}");
    assert_eq!(alice.get(&filter_path).await.ok(), filter);
    bob.get(&filter_path).await.refused(403, "M_FORBIDDEN");
    alice.get("/_matrix/client/v3/user/@alice:localhost:8008/filter/999").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_openid_token_tells_a_third_party_who_its_bearer_is() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let path = "/_matrix/client/v3/user/@alice:localhost:8008/openid/request_token";
    let token = alice.post(path, &json!({})).await.ok();
    assert_eq!(
        (&token["token_type"], &token["matrix_server_name"]),
        (&json!("Bearer"), &json!("localhost:8008"))
    );
    let userinfo = |token: &str| format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
    let anonymous = server.anonymous();
    let subject = anonymous.get(&userinfo(token["access_token"].as_str().unwrap())).await.ok();
    assert_eq!(subject, json!({ "sub": "@alice:localhost:8008" }));
    anonymous.get(&userinfo("made_up")).await.refused(401, "M_UNKNOWN_TOKEN");
    anonymous.get(&userinfo(alice.access_token.as_deref().unwrap())).await.refused(401, "M_UNKNOWN_TOKEN");
    let bob = server.register("bob", PASSWORD).await;
    bob.post(path, &json!({})).await.refused(403, "M_FORBIDDEN");
}

/// A device of a user who was locked since it logged in.
async fn log_in_anew(server: &Server, user: &str, admin: &Caller, lock: &str) -> Caller {
    admin.put(lock, &json!({ "locked": false })).await.ok();
    let device = log_in(server, user, PASSWORD).await;
    admin.put(lock, &json!({ "locked": true })).await.ok();
    device
}

#[tokio::test]
async fn administrators_lock_and_suspend() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    entente_tests::run_well(&mut server.command(&["admin", "create-user", "root1", "--admin"]), PASSWORD);
    let admin = log_in(&server, "root1", PASSWORD).await;
    let lock = "/_matrix/client/v1/admin/lock/@alice:localhost:8008";
    alice.put(lock, &json!({ "locked": true })).await.refused(403, "M_FORBIDDEN");
    admin.put(lock, &json!({ "locked": true })).await.ok();
    assert_eq!(admin.get(lock).await.ok(), json!({ "locked": true }));
    let refused = alice.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_USER_LOCKED");
    assert_eq!(refused["soft_logout"], true, "the client keeps its keys");
    let phone = log_in_anew(&server, "alice", &admin, lock).await;
    phone.post("/_matrix/client/v3/logout", &json!({})).await.ok();
    phone.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    admin.put(lock, &json!({ "locked": false })).await.ok();
    alice.get("/_matrix/client/v3/account/whoami").await.ok();
    let suspend = "/_matrix/client/v1/admin/suspend/@alice:localhost:8008";
    admin.put(suspend, &json!({ "suspended": true })).await.ok();
    let profile = "/_matrix/client/v3/profile/@alice:localhost:8008/displayname";
    alice.put(profile, &json!({ "displayname": "spam" })).await.refused(403, "M_USER_SUSPENDED");
    alice.get("/_matrix/client/v3/account/whoami").await.ok();
    // What verifying their devices needs.
    alice.put("/_matrix/client/v3/sendToDevice/org.example/1", &json!({ "messages": {} })).await.ok();
    alice.post("/_matrix/client/v3/keys/claim", &json!({ "one_time_keys": {} })).await.ok();
    admin.get("/_matrix/client/v1/admin/lock/@nobody:localhost:8008").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_account_that_is_no_longer_valid_is_refused() {
    let server =
        Server::with(&[("ENTENTE_REGISTRATION__OPEN", "true"), ("ENTENTE_ACCOUNTS__VALIDITY_PERIOD", "1s")]);
    let alice = server.register("alice", PASSWORD).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    alice.get("/_matrix/client/v3/account/whoami").await.refused(403, "ORG_MATRIX_EXPIRED_ACCOUNT");
}

#[tokio::test]
async fn fallback_pages_complete_a_stage() {
    let server = Server::with(&[]);
    let token = server.first_token().unwrap().to_owned();
    let anonymous = server.anonymous();
    let body = json!({ "username": "alice", "password": PASSWORD });
    let asked = anonymous.post("/_matrix/client/v3/register", &body).await;
    let session = asked.body["session"].as_str().unwrap();
    let page = format!("/_matrix/client/v3/auth/m.login.registration_token/fallback/web?session={session}");
    let shown = anonymous.get(&page).await;
    assert!(shown.header("content-security-policy").contains("default-src 'none'"), "{:?}", shown.headers);
    assert!(shown.body.as_str().unwrap().contains(session));
    let fill_in = async |token: &str| {
        let form = [("session", session), ("token", token)];
        anonymous.request(Method::POST, &page).form(&form).send().await.unwrap().status()
    };
    assert_eq!(fill_in("wrong").await, StatusCode::FORBIDDEN);
    assert_eq!(fill_in(&token).await, StatusCode::OK);
    let auth = json!({ "type": "m.login.dummy", "session": session });
    let registered = anonymous
        .post(
            "/_matrix/client/v3/register",
            &json!({
        "username": "alice", "password": PASSWORD, "auth": auth }),
        )
        .await
        .ok();
    assert_eq!(registered["user_id"], "@alice:localhost:8008");
    let hostile =
        anonymous.get("/_matrix/client/v3/auth/m.login.dummy/fallback/web?session=%22%3E%3Cscript%3E").await;
    assert!(!hostile.body.as_str().unwrap().contains("<script>"), "what a stranger sends is escaped");
}
