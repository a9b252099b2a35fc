use entente_rooms::{Membership, RoomError, RoomView, state::StateRoot};
use ruma::UserId;
use serde::Serialize;

/// Members by whom a room without a name is called.
const MOST_HEROES: usize = 5;

/// What a client needs to name a room whose members it does not know (C-S API, `RoomSummary`).
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    heroes: Option<Vec<String>>,
    #[serde(rename = "m.joined_member_count")]
    joined: u64,
    #[serde(rename = "m.invited_member_count")]
    invited: u64,
}

impl Summary {
    /// The summary of a room at present. Heroes are left out of rooms that have a name or an alias.
    pub(crate) async fn of(
        view: &RoomView,
        user_id: &UserId,
        state: StateRoot,
        with_heroes: bool,
    ) -> Result<Self, RoomError> {
        let (joined, invited) = view.member_counts().await?;
        let heroes = if with_heroes && !is_named(view, state).await? {
            Some(heroes(view, user_id).await?)
        } else {
            None
        };
        Ok(Self { heroes, joined, invited })
    }
}

async fn is_named(view: &RoomView, state: StateRoot) -> Result<bool, RoomError> {
    #[derive(serde::Deserialize)]
    struct Content {
        name: Option<String>,
        alias: Option<String>,
    }
    let keys = [("m.room.name", ""), ("m.room.canonical_alias", "")];
    let events = view.state_events(state, &keys).await?;
    let contents = events.iter().flatten().filter_map(|event| event.content_as::<Content>());
    let mut names = contents.flat_map(|content| [content.name, content.alias]).flatten();
    Ok(names.any(|name| !name.is_empty()))
}

/// The first who are in the room or invited, the user aside; if there are none, those who were.
pub(crate) async fn heroes(view: &RoomView, user_id: &UserId) -> Result<Vec<String>, RoomError> {
    let members = view.first_members(4 * MOST_HEROES).await?;
    let others = || members.iter().filter(|(member, _)| member != user_id.as_str());
    let names = |wanted: &[Membership]| -> Vec<String> {
        let of_membership = others().filter(|(_, membership)| wanted.contains(membership));
        of_membership.map(|(member, _)| member.clone()).take(MOST_HEROES).collect()
    };
    let present = names(&[Membership::Join, Membership::Invite]);
    if present.is_empty() { Ok(names(&[Membership::Leave, Membership::Ban])) } else { Ok(present) }
}
