//! Asking policy servers (S-S API, "Asking for a Policy Server signature on an event").

use std::{fmt, time::Duration};

use entente_rooms::{PolicyRefusal, PolicyServers};
use futures_util::future::{BoxFuture, FutureExt};
use http::Method;
use ruma::{CanonicalJsonObject, ServerName};

use super::{Ask, Client};
use crate::FederationError;

/// How long a policy server may take: whoever sends something waits for it.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// Its signatures.
const MOST_SIGNATURES_BYTES: usize = 64 * 1024;

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("policy", &self.inner.policy).finish_non_exhaustive()
    }
}

impl PolicyServers for Client {
    fn sign<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a CanonicalJsonObject,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, PolicyRefusal>> {
        async move {
            let ask = Ask::with(Method::POST, String::from("/_matrix/policy/v1/sign"), event);
            let ask = ask.up_to(MOST_SIGNATURES_BYTES).within(SIGN_TIMEOUT);
            self.ask(server, ask).await.map_err(refusal)
        }
        .boxed()
    }
}

/// What a user hears of a policy server that did not sign: its own words, or that it cannot be asked.
fn refusal(error: FederationError) -> PolicyRefusal {
    let status = if matches!(error, FederationError::TimedOut(_)) { 504 } else { 502 };
    let unknown = |message: String| PolicyRefusal {
        status,
        errcode: String::from("M_UNKNOWN"),
        message,
        retry_after: None,
    };
    match error {
        FederationError::Status { status: status @ 400..500, errcode, message, retry_after, .. }
            if !errcode.is_empty() =>
        {
            PolicyRefusal { status, errcode, message, retry_after }
        }
        error => unknown(format!("the policy server of this room does not answer: {error}")),
    }
}
