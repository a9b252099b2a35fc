//! The public rooms of another server, those of networks to which its application services bridge included.

use entente_tests::{Authority, Service, User, segment};
use serde_json::{Value, json};
use tempfile::TempDir;

#[tokio::test]
async fn rooms_of_networks_are_found_from_elsewhere() {
    let service = Service::start();
    let directory = TempDir::new().unwrap();
    let registration = directory.path().join("irc.yaml");
    std::fs::write(&registration, service.registration("irc", "protocols: [irc]\n")).unwrap();
    let registrations = json!([registration]).to_string();
    let authority = Authority::new();
    let one = authority.server(&[("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", registrations.as_str())]);
    let other = authority.server(&[]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let own = alice.create_room(json!({ "visibility": "public" })).await;
    let bridged = alice.create_room(json!({ "preset": "public_chat" })).await;
    let list = format!("/_matrix/client/v3/directory/list/appservice/n/{}", segment(&bridged));
    one.caller("as-irc").put(&list, &json!({ "visibility": "public" })).await.ok();

    let path = format!("/_matrix/client/v3/publicRooms?server={}", segment(&one.name()));
    let listed = async |body: Value| {
        let listed = bob.post(&path, &body).await.ok();
        let rooms = listed["chunk"].as_array().unwrap().iter();
        let mut rooms: Vec<String> =
            rooms.map(|listed| listed["room_id"].as_str().unwrap().to_owned()).collect();
        rooms.sort();
        rooms
    };
    let mut all = vec![own.clone(), bridged.clone()];
    all.sort();
    assert_eq!(listed(json!({})).await, [own.as_str()]);
    assert_eq!(listed(json!({ "third_party_instance_id": "irc|n" })).await, [bridged.as_str()]);
    assert_eq!(listed(json!({ "include_all_networks": true })).await, all);
    assert!(listed(json!({ "third_party_instance_id": "irc|other" })).await.is_empty());
}
