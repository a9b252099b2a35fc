//! User-interactive authentication (C-S API, "User-Interactive Authentication API").

use entente_storage::Transaction;
use ruma::{
    UserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo},
        error::{ErrorKind, StandardErrorBody},
    },
};

use crate::{
    AccountError, Accounts,
    rows::{self, InteractiveRow},
    tokens::{Digest, TokenKind, digest},
};

/// What a client wants to do that needs proof. A proof for one operation holds for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `POST /register`.
    Register,
    /// `DELETE /devices/{deviceId}` and `POST /delete_devices`.
    DeleteDevices,
    /// `POST /account/password`.
    ChangePassword,
    /// `POST /account/deactivate`.
    Deactivate,
    /// `POST /login/get_token`.
    CreateLoginToken,
    /// `POST /keys/device_signing/upload`.
    ReplaceCrossSigningKeys,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::DeleteDevices => "delete_devices",
            Self::ChangePassword => "change_password",
            Self::Deactivate => "deactivate",
            Self::CreateLoginToken => "create_login_token",
            Self::ReplaceCrossSigningKeys => "replace_cross_signing_keys",
        }
    }
}

/// The proof that was given: all stages of a flow are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub(crate) registration_token: Option<String>,
}

/// Where a client stands in its flow.
struct Progress {
    token: String,
    row: InteractiveRow,
}

impl Progress {
    fn key(&self) -> Digest {
        digest(&self.token)
    }

    fn has_completed(&self, stage: &AuthType) -> bool {
        self.row.completed.iter().any(|completed| completed == stage.as_str())
    }

    fn complete(&mut self, stage: &AuthType) {
        if !self.has_completed(stage) {
            self.row.completed.push(stage.as_str().to_owned());
        }
    }

    fn info(&self, flows: &[Vec<AuthType>]) -> UiaaInfo {
        let mut info = UiaaInfo::new(flows.iter().cloned().map(AuthFlow::new).collect());
        info.completed = self.row.completed.iter().map(|stage| AuthType::from(stage.as_str())).collect();
        info.session = Some(self.token.clone());
        info.params = serde_json::value::to_raw_value(&serde_json::json!({})).ok();
        info
    }
}

impl Accounts {
    /// The flows by which somebody may register.
    fn registration_flows(&self) -> Vec<Vec<AuthType>> {
        let mut flows = Vec::new();
        if self.settings().open_registration {
            flows.push(vec![AuthType::Dummy]);
        }
        if self.settings().registration_tokens {
            // Clients that were written against Synapse expect a dummy stage to end the flow.
            flows.push(vec![AuthType::RegistrationToken, AuthType::Dummy]);
        }
        flows
    }

    /// Asks for proof that somebody may register.
    ///
    /// [`AccountError::Interactive`] carries what the client has to do next.
    pub async fn prove_registration(&self, auth: Option<&AuthData>) -> Result<Proof, AccountError> {
        let flows = self.registration_flows();
        if flows.is_empty() {
            return Err(AccountError::RegistrationClosed);
        }
        self.prove(Operation::Register, None, &flows, auth).await
    }

    /// Asks for proof that the user himself, and not somebody with his device, wants this.
    ///
    /// [`AccountError::Interactive`] carries what the client has to do next.
    pub async fn prove_identity(
        &self,
        operation: Operation,
        user_id: &UserId,
        auth: Option<&AuthData>,
    ) -> Result<Proof, AccountError> {
        let localpart = self.local(user_id)?;
        self.check_permitted(operation)?;
        self.prove(operation, Some(localpart), &[vec![AuthType::Password]], auth).await
    }

    fn check_permitted(&self, operation: Operation) -> Result<(), AccountError> {
        match operation {
            Operation::ChangePassword if !self.settings().change_password => {
                Err(AccountError::Forbidden("passwords are not changed here; ask the administrator"))
            }
            Operation::Deactivate if !self.settings().deactivation => {
                Err(AccountError::Forbidden("accounts are not closed here; ask the administrator"))
            }
            _ => Ok(()),
        }
    }

    async fn prove(
        &self,
        operation: Operation,
        localpart: Option<&str>,
        flows: &[Vec<AuthType>],
        auth: Option<&AuthData>,
    ) -> Result<Proof, AccountError> {
        let session = auth.and_then(AuthData::session);
        let mut progress = self.progress(operation, localpart, session).await?;
        if let Some(auth) = auth
            && let Err(refusal) = self.attempt(&mut progress, localpart, flows, auth).await?
        {
            // Without a stored session there would be nothing to go on from.
            self.store_progress(&progress).await?;
            let mut info = progress.info(flows);
            info.auth_error = Some(Box::new(refusal));
            return Err(AccountError::Interactive(Box::new(info)));
        }
        let is_complete = |flow: &Vec<AuthType>| flow.iter().all(|stage| progress.has_completed(stage));
        if !flows.iter().any(is_complete) {
            self.store_progress(&progress).await?;
            return Err(AccountError::Interactive(Box::new(progress.info(flows))));
        }
        // The operation may still be refused, for instance because of a weak password. The client then asks again with the
        // same session, which therefore stays.
        self.store_progress(&progress).await?;
        Ok(Proof { registration_token: progress.row.registration_token })
    }

    /// Ends the session that a proof came from, once the operation is done: nothing can be proved with it again.
    pub async fn end_interactive_session(&self, auth: Option<&AuthData>) -> Result<(), AccountError> {
        let Some(session) = auth.and_then(AuthData::session) else { return Ok(()) };
        let mut transaction = Transaction::relaxed();
        transaction.delete(&rows::INTERACTIVE, digest(session));
        self.store().commit(transaction).await?;
        Ok(())
    }

    /// Completes `m.login.dummy` or a registration token from a fallback page.
    pub async fn complete_fallback_stage(
        &self,
        session: &str,
        stage: &AuthType,
        registration_token: Option<&str>,
    ) -> Result<bool, AccountError> {
        let now = self.inner.environment.now().millis();
        let snapshot = self.snapshot().await?;
        let row = snapshot.get(&rows::INTERACTIVE, digest(session)).await?;
        let Some(row) = row.filter(|row| row.expires_at > now && row.localpart.is_none()) else {
            return Err(AccountError::NotFound("that session has ended; begin again in your Matrix client"));
        };
        let mut progress = Progress { token: session.to_owned(), row };
        if !self.registration_flows().iter().flatten().any(|offered| offered == stage) {
            return Ok(false);
        }
        match (stage, registration_token) {
            (AuthType::Dummy, _) => progress.complete(stage),
            (AuthType::RegistrationToken, Some(token)) => {
                if self.usable_registration_token(&snapshot, token).await?.is_none() {
                    return Ok(false);
                }
                progress.row.registration_token = Some(token.to_owned());
                progress.complete(stage);
            }
            _ => return Ok(false),
        }
        self.store_progress(&progress).await?;
        Ok(true)
    }

    /// The session that the client names if it exists for this operation and user, or a new one.
    async fn progress(
        &self,
        operation: Operation,
        localpart: Option<&str>,
        session: Option<&str>,
    ) -> Result<Progress, AccountError> {
        let now = self.inner.environment.now();
        if let Some(session) = session {
            let row = self.snapshot().await?.get(&rows::INTERACTIVE, digest(session)).await?;
            let belongs = |row: &InteractiveRow| {
                row.operation == operation.as_str()
                    && row.localpart.as_deref() == localpart
                    && row.expires_at > now.millis()
            };
            if let Some(row) = row.filter(belongs) {
                return Ok(Progress { token: session.to_owned(), row });
            }
        }
        let row = InteractiveRow {
            operation: operation.as_str().to_owned(),
            localpart: localpart.map(str::to_owned),
            completed: Vec::new(),
            registration_token: None,
            expires_at: now.after(self.settings().uia_session_lifetime).millis(),
        };
        Ok(Progress { token: TokenKind::Interactive.generate(self.inner.environment.randomness()), row })
    }

    async fn store_progress(&self, progress: &Progress) -> Result<(), AccountError> {
        let mut transaction = Transaction::relaxed();
        transaction.put(&rows::INTERACTIVE, progress.key(), &progress.row);
        self.store().commit(transaction).await?;
        Ok(())
    }

    /// Tries one stage. The inner error is for the client.
    async fn attempt(
        &self,
        progress: &mut Progress,
        localpart: Option<&str>,
        flows: &[Vec<AuthType>],
        auth: &AuthData,
    ) -> Result<Result<(), StandardErrorBody>, AccountError> {
        let Some(stage) = auth.auth_type() else {
            // A client that comes back from a fallback page names no stage.
            return Ok(Ok(()));
        };
        if !flows.iter().flatten().any(|offered| *offered == stage) {
            return Ok(Err(refusal(
                ErrorKind::Unrecognized,
                "this kind of authentication is not offered here",
            )));
        }
        match auth {
            AuthData::Dummy(_) => {}
            AuthData::RegistrationToken(given) => {
                if !self.is_registration_token_valid(&given.token).await? {
                    let message = "the registration token is not valid, or not any more";
                    return Ok(Err(refusal(ErrorKind::Unauthorized, message)));
                }
                progress.row.registration_token = Some(given.token.clone());
            }
            AuthData::Password(given) => {
                let named = self.identified_localpart(&given.identifier).ok();
                let is_same = localpart.is_some() && named.as_deref() == localpart;
                let localpart = localpart.unwrap_or_default();
                match self.verify_password(localpart, &given.password).await {
                    Ok(()) if is_same => {}
                    Ok(()) | Err(AccountError::WrongCredentials) => {
                        return Ok(Err(refusal(ErrorKind::Forbidden, "the name or the password is wrong")));
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => {
                return Ok(Err(refusal(
                    ErrorKind::Unrecognized,
                    "this kind of authentication is not known here",
                )));
            }
        }
        progress.complete(&stage);
        Ok(Ok(()))
    }
}

fn refusal(kind: ErrorKind, message: &str) -> StandardErrorBody {
    StandardErrorBody::new(kind, message.to_owned())
}
