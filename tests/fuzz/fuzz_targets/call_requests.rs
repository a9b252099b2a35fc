//! What clients of calls send outside of a session: tokens, how they join, `RoomService`, the names in STUN requests.
#![no_main]

use entente_call_bridge::{
    ApiKey,
    fuzzing::{ice_user_name, join_request, room_service_request},
};
use entente_environment::Timestamp;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Token(&'a str),
    Join(&'a str),
    RoomService(u8, &'a [u8]),
    Datagram(&'a [u8]),
}

fuzz_target!(|input: Input| {
    match input {
        Input::Token(token) => {
            let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
            assert!(key.verify(token, Timestamp(1_700_000_000_000)).is_err(), "nobody signed it");
        }
        Input::Join(parameter) => {
            join_request(parameter);
        }
        Input::RoomService(kind, json) => room_service_request(kind, json),
        Input::Datagram(datagram) => {
            ice_user_name(datagram);
        }
    }
});
