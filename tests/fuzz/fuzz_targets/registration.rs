//! Registrations of application services.
#![no_main]

use entente_appservices::Registration;
use libfuzzer_sys::fuzz_target;
use ruma::{room_alias_id, room_id, server_name, user_id};

fuzz_target!(|text: &str| {
    match Registration::parse(text, "bridge.yaml", server_name!("example.org")) {
        Ok(service) => {
            assert!(service.is_user(service.sender.as_str()) && service.owns_user(&service.sender));
            assert!(!service.may_be(user_id!("@irc_ann:elsewhere.org")));
            let _ = service.owns_user(user_id!("@irc_ann:example.org"));
            let _ = service.owns_alias(room_alias_id!("#irc_room:example.org"));
            let _ = service.is_room(room_id!("!room:example.org"));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
