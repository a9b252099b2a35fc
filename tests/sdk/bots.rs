//! The shipped bots in encrypted rooms, with people who use `matrix-sdk`.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_sdk_tests::{
    PASSWORD, Person,
    bot::{Bot, Way},
    eventually,
};
use entente_tests::{Server, Service, free_port};
use matrix_sdk::{
    Room,
    encryption::identities::{Device, UserIdentity},
    ruma::{
        api::client::room::create_room::v3::Request as CreateRoom,
        events::{
            InitialStateEvent,
            room::{encryption::RoomEncryptionEventContent, message::RoomMessageEventContent},
        },
    },
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// An encrypted room of somebody and a bot.
async fn room_with(person: &Person, bot: &Bot) -> Room {
    let mut request = CreateRoom::new();
    request.invite = vec![bot.id()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room = person.client.create_room(request).await.unwrap();
    eventually("the bot in the room", || async {
        (room.joined_members_count() == 2 && room.latest_encryption_state().await.unwrap().is_encrypted())
            .then_some(())
    })
    .await;
    room
}

async fn alice(server: &Server) -> Person {
    server.register("alice", PASSWORD).await;
    Person::log_in(server, "alice", "office").await
}

async fn say(room: &Room, text: &str) {
    room.send(RoomMessageEventContent::text_plain(text)).await.unwrap();
}

/// What the bot said, all of it encrypted.
fn said(person: &Person, bot: &Bot) -> Vec<String> {
    let read = person.read_from(&bot.id());
    assert!(read.iter().all(|read| read.encrypted), "{read:?}");
    read.into_iter().map(|read| read.body).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_is_killed_over_a_message_answers_it_once() {
    let mut bot = Bot::new("echo");
    let server = Bot::server(&[&bot]);
    let way = Way::to(&server).await;
    bot.start(&way.url, "").await;
    let alice = alice(&server).await;
    let room = room_with(&alice, &bot).await;
    say(&room, "!echo one").await;
    alice.reads_from(&bot.id(), "one").await;

    // The answer is in the room, and the bot dies without having heard of that, or acknowledged what it answered.
    way.lose_answers(true);
    say(&room, "!echo two").await;
    way.until_lost().await;
    bot.kill();
    alice.reads_from(&bot.id(), "two").await;
    way.lose_answers(false);
    say(&room, "!echo three").await;
    bot.start(&way.url, "").await;
    alice.reads_from(&bot.id(), "three").await;
    assert_eq!(said(&alice, &bot), ["one", "two", "three"]);

    // However often: whatever is under way when it dies is answered by the next.
    for number in 0..5 {
        say(&room, &format!("!echo {number}")).await;
        bot.kill();
        bot.start(&way.url, "").await;
    }
    alice.reads_from(&bot.id(), "4").await;
    assert_eq!(said(&alice, &bot)[3..], ["0", "1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recovery_key_gives_a_bot_its_keys_back() {
    let mut bot = Bot::new("echo");
    let server = Bot::server(&[&bot]);
    bot.start(&server.base_url, "").await;
    let alice = alice(&server).await;
    let room = room_with(&alice, &bot).await;
    say(&room, "!echo one").await;
    alice.reads_from(&bot.id(), "one").await;
    bot.kill();
    // Said with the key that the bot has, and nobody gives it another time.
    say(&room, "!echo two").await;
    let recovery_key = std::fs::read(bot.data().join("recovery-key")).unwrap();
    std::fs::remove_dir_all(bot.data()).unwrap();
    std::fs::create_dir(bot.data()).unwrap();
    std::fs::write(bot.data().join("recovery-key"), recovery_key).unwrap();
    bot.start(&server.base_url, "").await;
    alice.reads_from(&bot.id(), "two").await;
    say(&room, "!echo three").await;
    alice.reads_from(&bot.id(), "three").await;
    assert!(bot.log().contains("keys were restored from the backup"));
}

async fn identity(person: &Person, bot: &Bot) -> UserIdentity {
    person.client.encryption().request_user_identity(&bot.id()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_deleted_is_replaced_and_the_identity_kept() {
    let mut bot = Bot::new("echo");
    let server = Bot::server(&[&bot]);
    bot.start(&server.base_url, "").await;
    let alice = alice(&server).await;
    let room = room_with(&alice, &bot).await;
    say(&room, "!echo one").await;
    alice.reads_from(&bot.id(), "one").await;
    let before = identity(&alice, &bot).await;
    bot.kill();
    let caller = server.caller(&bot.as_token());
    let devices = caller.get("/_matrix/client/v3/devices").await.ok();
    let device_id = devices["devices"][0]["device_id"].as_str().unwrap();
    caller.delete(&format!("/_matrix/client/v3/devices/{device_id}"), &json!({})).await.ok();
    bot.start(&server.base_url, "").await;
    let after = identity(&alice, &bot).await;
    assert_eq!(after.master_key(), before.master_key());
    say(&room, "!echo two").await;
    alice.reads_from(&bot.id(), "two").await;
    let devices = alice.client.encryption().get_user_devices(&bot.id()).await.unwrap();
    assert_eq!(devices.devices().filter(Device::is_cross_signed_by_owner).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_speak_in_encrypted_rooms_and_hear_what_is_said_there() {
    let mut bot = Bot::new("webhook");
    let server = Bot::server(&[&bot]);
    bot.start(&server.base_url, "").await;
    let alice = alice(&server).await;
    let room = room_with(&alice, &bot).await;
    bot.kill();
    let (receiver, dead, port) = (Service::start(), Service::start(), free_port());
    dead.refuse(true);
    let outgoing = |service: &Service, prefix: &str| {
        format!(
            "[[bot.outgoing]]\nroom = \"{}\"\nurl = \"{}/taken\"\nsecret = \"another-long-secret\"\nprefix = \"{prefix}\"\n",
            room.room_id(),
            service.url(),
        )
    };
    let options = format!(
        "[bot]\nlisten = \"127.0.0.1:{port}\"\n[[bot.incoming]]\nname = \"ci\"\nroom = \"{}\"\n\
         secret = \"a-long-enough-secret\"\ntemplate = \"{{{{ body.job }}}}: {{{{ body.status }}}}\"\n{}{}",
        room.room_id(),
        outgoing(&dead, ""),
        outgoing(&receiver, "TODO"),
    );
    bot.start(&server.base_url, &options).await;
    // That the server reaches it does not say that hooks do.
    eventually("the port for hooks", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;

    let url = format!("http://127.0.0.1:{port}/hooks/ci");
    let call = async |id: &str, status: &str| {
        let request = reqwest::Client::new().post(&url).bearer_auth("a-long-enough-secret");
        let body = json!({ "job": "build", "status": status }).to_string();
        request.header("idempotency-key", id).body(body).send().await.unwrap().status().as_u16()
    };
    for id in ["1", "1"] {
        assert_eq!(call(id, "passed").await, 200);
    }
    assert_eq!(call("2", "failed").await, 200);
    alice.reads_from(&bot.id(), "build: failed").await;
    assert_eq!(said(&alice, &bot), ["build: passed", "build: failed"]);

    say(&room, "nothing to do").await;
    say(&room, "TODO water the plants").await;
    receiver.until("what is to be done", |service| !service.requests().is_empty()).await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].line, "POST /taken");
    assert_eq!(requests[0].body["content"]["body"], "TODO water the plants");
    assert_eq!(requests[0].body["sender"], alice.id().as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meeting_is_called_noted_and_reminded_of() {
    let mut bot = Bot::new("meeting");
    let server = Bot::server(&[&bot]);
    let options = "[bot]\nreminder_seconds = 1\ncall_link = \"https://call.example.org/{room_id}\"\n";
    bot.start(&server.base_url, options).await;
    let alice = alice(&server).await;
    let room = room_with(&alice, &bot).await;
    let reads = async |beginning: &str| {
        eventually(beginning, || async {
            said(&alice, &bot).into_iter().find(|text| text.starts_with(beginning))
        })
        .await
    };

    say(&room, "!meet start lunch").await;
    let link = reads(&format!("{} calls about lunch: https://call.example.org/", alice.id())).await;
    assert!(link.ends_with(&room.room_id().as_str()[1..].replace(':', "%3A")), "{link}");

    say(&room, "!meet remind 1s tea").await;
    say(&room, "!meet remind 10m biscuits").await;
    say(&room, "!meet remind 20m cake").await;
    reads(&format!("{}: tea", alice.id())).await;
    say(&room, "!meet forget 1").await;
    reads("Forgotten: biscuits").await;
    say(&room, "!meet reminders").await;
    assert!(reads("1. in ").await.ends_with("cake"));

    say(&room, "!meet minutes on").await;
    reads("From now on I note").await;
    let call_member = "org.matrix.msc3401.call.member";
    let membership = |device_id: &str| {
        json!({
            "application": "m.call", "call_id": "", "scope": "m.room", "device_id": device_id, "expires": 7_200_000,
            "focus_active": { "type": "livekit", "focus_selection": "oldest_membership" }, "foci_preferred": [],
        })
    };
    // Anybody can send this to the room, and nobody is in a call by it.
    room.send_raw(call_member, membership("FORGED")).await.unwrap();
    let key = format!("_{}_OFFICE", alice.id());
    room.send_state_event_raw(call_member, &key, membership("OFFICE")).await.unwrap();
    say(&room, "!meet minutes").await;
    let noted = reads("Minutes (UTC):").await;
    assert_eq!(noted.lines().count(), 2, "{noted}");
    assert!(noted.contains(&format!("\n{} ", alice.id())) && noted.ends_with('–'), "{noted}");
    room.send_state_event_raw(call_member, &key, Value::Object(serde_json::Map::new())).await.unwrap();
    eventually("the minutes", || async {
        said(&alice, &bot).into_iter().find(|text| text.starts_with("Minutes") && !text.ends_with('–'))
    })
    .await;
    say(&room, "!meet object").await;
    reads("Somebody objects").await;
}
