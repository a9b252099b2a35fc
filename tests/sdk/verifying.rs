//! People who verify each other by the emoji that both see, in an encrypted room of the two.

use futures_util::StreamExt;
use matrix_sdk::{
    encryption::identities::UserIdentity,
    encryption::verification::{
        SasState, SasVerification, Verification, VerificationRequest, VerificationRequestState,
    },
    ruma::{
        OwnedRoomId, UserId,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent},
            },
        },
    },
};

use crate::{Person, eventually};

/// An encrypted room of two, in which both know that it is one.
pub async fn encrypted_room(alice: &Person, bob: &Person) -> OwnedRoomId {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.is_direct = true;
    request.invite = vec![bob.id()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room_id = alice.client.create_room(request).await.unwrap().room_id().to_owned();
    let invited = bob.room(&room_id).await;
    invited.join().await.unwrap();
    let room = alice.room(&room_id).await;
    eventually("the guest", || async { (room.joined_members_count() == 2).then_some(()) }).await;
    for person in [alice, bob] {
        let room = person.room(&room_id).await;
        eventually("encryption", || async {
            room.latest_encryption_state().await.unwrap().is_encrypted().then_some(())
        })
        .await;
    }
    room_id
}

/// Has both compare what they see, and waits until each holds the other for verified. They share an encrypted room.
pub async fn verify_each_other(asking: &Person, asked: &Person) {
    let mut requests = watch_for_request(asked);
    // Who does not know the device that asks takes no notice.
    identity_of(asked, &asking.id()).await;
    let identity = identity_of(asking, &asked.id()).await;
    assert!(!identity.is_verified());
    let request = identity.request_verification().await.unwrap();
    let seen = tokio::spawn(verify_as_asker(request));
    let seen_there = verify_as_asked(requests.recv().await.unwrap()).await;
    assert_eq!(seen.await.unwrap(), seen_there, "both see the same emoji");
    for (one, other) in [(asking, asked), (asked, asking)] {
        eventually("the verified identity", || async {
            let identity = one.client.encryption().get_user_identity(&other.id()).await.unwrap();
            identity.filter(UserIdentity::is_verified)
        })
        .await;
    }
}

/// Has somebody ask who a user is. Asked again: Synapse looks for the identity of another server's user before it fetches their devices,
/// and may find those without it.
async fn identity_of(asking: &Person, user_id: &UserId) -> UserIdentity {
    let encryption = asking.client.encryption();
    let asked = || async { encryption.request_user_identity(user_id).await.unwrap() };
    eventually("the identity", asked).await
}

/// Compares the short string on one side once both have it.
async fn confirm(sas: SasVerification) -> String {
    let mut changes = sas.changes();
    let mut shown = String::new();
    while let Some(state) = changes.next().await {
        match state {
            SasState::Started { .. } if !sas.we_started() => sas.accept().await.unwrap(),
            SasState::KeysExchanged { emojis, .. } => {
                shown = emojis.unwrap().emojis.iter().map(|emoji| emoji.symbol).collect();
                sas.confirm().await.unwrap();
            }
            SasState::Done { .. } => return shown,
            SasState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("the verification ended without an outcome");
}

async fn verify_as_asker(request: VerificationRequest) -> String {
    let mut changes = request.changes();
    while let Some(state) = changes.next().await {
        match state {
            VerificationRequestState::Ready { .. } => {
                let sas = request.start_sas().await.unwrap().unwrap();
                return confirm(sas).await;
            }
            VerificationRequestState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("nobody answered");
}

async fn verify_as_asked(request: VerificationRequest) -> String {
    request.accept().await.unwrap();
    let mut changes = request.changes();
    while let Some(state) = changes.next().await {
        match state {
            VerificationRequestState::Transitioned { verification: Verification::SasV1(sas), .. } => {
                sas.accept().await.unwrap();
                return confirm(sas).await;
            }
            VerificationRequestState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("nothing was started");
}

/// What asks this person to verify, once it comes.
fn watch_for_request(person: &Person) -> tokio::sync::mpsc::UnboundedReceiver<VerificationRequest> {
    let (found, requests) = tokio::sync::mpsc::unbounded_channel();
    let client = person.client.clone();
    person.client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| async move {
        if !matches!(event.content.msgtype, MessageType::VerificationRequest(_))
            || client.user_id() == Some(&event.sender)
        {
            return;
        }
        let flow_id = event.event_id.as_str();
        let request = client.encryption().get_verification_request(&event.sender, flow_id).await;
        let _ = found.send(request.unwrap());
    });
    requests
}
