use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// The slot of the call that is the room's own.
pub(super) const ROOM_CALL: &str = "m.call#ROOM";

/// Unpadded base64 of the SHA-256 of a JSON list without spaces: how MSC4195 makes one name of several.
fn hashed(parts: &[&str]) -> String {
    let list = serde_json::Value::from(parts).to_string();
    STANDARD_NO_PAD.encode(Sha256::digest(list))
}

/// What the room of a call is called at the SFU.
pub(super) fn sfu_room(room_id: &str, slot_id: &str) -> String {
    hashed(&[room_id, slot_id])
}

/// Who somebody is at the SFU, for those who only know the user and its device.
pub(super) fn plain(user_id: &str, device_id: &str) -> String {
    format!("{user_id}:{device_id}")
}

/// Who somebody is at the SFU, so that it tells strangers nothing.
pub(super) fn of_member(user_id: &str, device_id: &str, member_id: &str) -> String {
    hashed(&[user_id, device_id, member_id])
}

/// The same, as the later drafts have it.
pub(super) fn of_member_id(user_id: &str, member_id: &str) -> String {
    hashed(&[user_id, member_id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_others_compute() {
        let room = sfu_room("!roomid:example.com", "slot1234");
        assert_eq!(room, "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc");
        let member = of_member("@alice:example.com", "DEVICE123", "memberABC");
        assert_eq!(member, "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU");
        assert_eq!(plain("@alice:example.com", "DEVICE"), "@alice:example.com:DEVICE");
    }
}
