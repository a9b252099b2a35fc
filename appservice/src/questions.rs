//! What the homeserver asks of the service: whether there is a user or a room of its namespaces, and what is in the other network.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt as _};
use matrix_sdk::ruma::{
    OwnedRoomAliasId, OwnedUserId,
    thirdparty::{Location, Protocol, User as RemoteUser},
};

use crate::{Bridge, HandlerError};

/// What somebody looks for in the other network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThirdPartyQuery {
    /// Something by what it is called there.
    Remote {
        /// The network's protocol.
        protocol: String,
        /// The fields that were filled in, at most those of the request's query.
        fields: BTreeMap<String, String>,
    },
    /// Something by what it is called in Matrix: a user id or a room alias.
    Matrix(String),
}

/// What a question comes to.
pub(crate) type Answer<T> = Result<T, HandlerError>;
type Question<Q, A> = Arc<dyn Fn(Q, Bridge) -> BoxFuture<'static, Answer<A>> + Send + Sync>;

fn question<Q, A, F, Fut>(handler: F) -> Question<Q, A>
where
    F: Fn(Q, Bridge) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer<A>> + Send + 'static,
{
    Arc::new(move |query, bridge| handler(query, bridge).boxed())
}

/// Who answers what. What nobody answers does not exist.
#[derive(Default)]
pub(crate) struct Questions {
    user: Option<Question<OwnedUserId, bool>>,
    alias: Option<Question<OwnedRoomAliasId, bool>>,
    protocols: BTreeMap<String, Protocol>,
    remote_users: Option<Question<ThirdPartyQuery, Vec<RemoteUser>>>,
    locations: Option<Question<ThirdPartyQuery, Vec<Location>>>,
}

impl Questions {
    pub(crate) fn set_user<F, Fut>(&mut self, handler: F)
    where
        F: Fn(OwnedUserId, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer<bool>> + Send + 'static,
    {
        self.user = Some(question(handler));
    }

    pub(crate) fn set_alias<F, Fut>(&mut self, handler: F)
    where
        F: Fn(OwnedRoomAliasId, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer<bool>> + Send + 'static,
    {
        self.alias = Some(question(handler));
    }

    pub(crate) fn add_protocol(&mut self, name: &str, protocol: Protocol) {
        self.protocols.insert(name.to_owned(), protocol);
    }

    pub(crate) fn set_remote_users<F, Fut>(&mut self, handler: F)
    where
        F: Fn(ThirdPartyQuery, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer<Vec<RemoteUser>>> + Send + 'static,
    {
        self.remote_users = Some(question(handler));
    }

    pub(crate) fn set_locations<F, Fut>(&mut self, handler: F)
    where
        F: Fn(ThirdPartyQuery, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer<Vec<Location>>> + Send + 'static,
    {
        self.locations = Some(question(handler));
    }

    pub(crate) fn protocol(&self, name: &str) -> Option<&Protocol> {
        self.protocols.get(name)
    }
}

impl Bridge {
    /// Whether one of the service's users is there, or was made because somebody asks.
    pub(crate) async fn has_user(&self, user_id: OwnedUserId) -> Answer<bool> {
        if self.store().user(user_id.as_str()).await?.is_some() {
            return Ok(true);
        }
        if !self.owns(&user_id) || !self.ask(self.questions().user.clone(), user_id.clone()).await? {
            return Ok(false);
        }
        self.user_by_id(&user_id).ensure_registered().await?;
        Ok(true)
    }

    /// Whether an alias was made because somebody asks.
    pub(crate) async fn has_alias(&self, alias: OwnedRoomAliasId) -> Answer<bool> {
        self.ask(self.questions().alias.clone(), alias).await
    }

    pub(crate) async fn remote_users(&self, query: ThirdPartyQuery) -> Answer<Vec<RemoteUser>> {
        self.ask(self.questions().remote_users.clone(), query).await
    }

    pub(crate) async fn locations(&self, query: ThirdPartyQuery) -> Answer<Vec<Location>> {
        self.ask(self.questions().locations.clone(), query).await
    }

    /// Asks in a task of its own: a homeserver that hangs up stops nothing halfway, and a panic ends the question and nothing else.
    async fn ask<Q, A>(&self, question: Option<Question<Q, A>>, query: Q) -> Answer<A>
    where
        Q: Send + 'static,
        A: Default + Send + 'static,
    {
        let Some(question) = question else { return Ok(A::default()) };
        let running = self.tasks().spawn(question(query, self.clone()));
        match tokio::time::timeout(self.settings().handler_timeout(), running).await {
            Ok(answer) => answer.map_err(|error| format!("it broke off: {error}"))?,
            Err(_) => Err("it took too long".into()),
        }
    }
}
