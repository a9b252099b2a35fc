use entente_accounts::{Operation, Session};
use ruma::api::client::uiaa::AuthData;

use super::login::count_try;
use crate::{ApiState, MatrixError};

/// Asks for proof that the user himself wants this, and counts tries of his password against him.
pub(super) async fn prove(
    state: &ApiState,
    operation: Operation,
    session: &Session,
    auth: Option<&AuthData>,
) -> Result<(), MatrixError> {
    let proof = state.accounts.prove_identity(operation, &session.user_id, auth);
    if matches!(auth, Some(AuthData::Password(_))) {
        count_try(state, session.user_id.localpart(), proof).await?;
    } else {
        proof.await?;
    }
    Ok(())
}
