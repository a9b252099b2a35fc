//! Application services as callers: by their own token, as themselves or as one of their users (C-S API, "Identity assertion").

use std::sync::Arc;

use axum::http::request::Parts;
use entente_accounts::Session;
use entente_appservices::Registration;
use ruma::{
    UserId,
    api::auth_scheme::{AppserviceToken, AppserviceTokenOptional},
};

use crate::{
    ApiState, LimitKind, MatrixError,
    address::{ClientAddress, address_key},
    endpoint::{Anonymous, Caller, access_token, anonymous},
};

/// Names of the parameter that says as which device a service acts; the last is from before it was in the spec (MSC4326).
const DEVICE_PARAMETERS: [&str; 2] = ["device_id", "org.matrix.msc3202.device_id"];

/// The parameters of any request that only say as whom a service acts.
pub(crate) fn is_masquerading(parameter: &str) -> bool {
    parameter == "user_id" || DEVICE_PARAMETERS.contains(&parameter)
}

/// What a service asks for as the user and the device that it names.
pub(crate) async fn session_of(
    state: &ApiState,
    parts: &Parts,
    service: &Registration,
    rate_limited: bool,
) -> Result<Session, MatrixError> {
    let query = parts.uri.query().unwrap_or_default();
    let parameter = |names: &[&str]| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| names.contains(&&**name)).map(|(_, value)| value.into_owned())
    };
    let user_id = match parameter(&["user_id"]) {
        None => service.sender.clone(),
        Some(named) => {
            let user_id =
                UserId::parse(named).map_err(|_| MatrixError::invalid_param("user_id is not a user id"))?;
            if !service.may_be(&user_id) {
                return Err(MatrixError::forbidden(
                    "that user is not in a namespace of this application service",
                ));
            }
            user_id
        }
    };
    let device_id = parameter(&DEVICE_PARAMETERS);
    // A service's own user is never limited, its others if its registration does not say otherwise.
    let is_limited = service.rate_limited && user_id != service.sender;
    let session = state.accounts.service_session(&user_id, device_id.as_deref(), &service.id, is_limited);
    let session = session.await?;
    if rate_limited {
        state.limits.take_for(&session)?;
    }
    Ok(session)
}

/// An application service.
#[derive(Debug)]
pub(crate) struct ServiceCaller(pub(crate) Arc<Registration>);

impl Caller<AppserviceToken> for ServiceCaller {
    async fn identify(state: &ApiState, parts: &Parts, _: bool) -> Result<Self, MatrixError> {
        let token = access_token::<AppserviceToken, String>(parts)?;
        service_of(state, parts, &token).map(Self)
    }
}

/// Whoever logs in or registers: application services may do it with their own token.
#[derive(Debug)]
pub(crate) struct Newcomer {
    /// Who asks.
    pub(crate) anonymous: Anonymous,
    /// The token, whose it may be.
    token: Option<String>,
    service: Option<Arc<Registration>>,
}

impl Newcomer {
    /// The service. To be asked for what only services may do.
    pub(crate) fn service(&self) -> Result<&Registration, MatrixError> {
        match (&self.service, &self.token) {
            (Some(service), _) => Ok(service),
            (None, Some(_)) => Err(MatrixError::unknown_service()),
            (None, None) => Err(MatrixError::missing_token()),
        }
    }
}

impl Caller<AppserviceTokenOptional> for Newcomer {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        let token = access_token::<AppserviceTokenOptional, Option<String>>(parts)?;
        let service = token.as_deref().and_then(|token| state.appservices.by_token(token));
        let anonymous = anonymous(state, parts, rate_limited && service.is_none())?;
        Ok(Self { anonymous, token, service })
    }
}

fn service_of(state: &ApiState, parts: &Parts, token: &str) -> Result<Arc<Registration>, MatrixError> {
    if let Some(service) = state.appservices.by_token(token) {
        return Ok(service);
    }
    // Guessing tokens counts against the guesser.
    let address = address_key(ClientAddress::of(parts));
    state.limits.take(LimitKind::RequestsByAddress, &address)?;
    Err(MatrixError::unknown_service())
}
