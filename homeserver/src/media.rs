//! Media: their settings, where files of other servers come from, and what is cleaned up now and then.

use std::{future::Future, pin::Pin};

use entente_config::Config;
use entente_environment::Environment;
use entente_federation::{Client, FederationError};
use entente_media::{Media, RemoteError, RemoteFile, RemoteMedia};
use entente_outbound::Route;
use entente_storage::Store;
use ruma::ServerName;

/// Files of other servers, by federation.
struct FromOtherServers(Client);

impl std::fmt::Debug for FromOtherServers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FromOtherServers").finish_non_exhaustive()
    }
}

impl RemoteMedia for FromOtherServers {
    fn fetch<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<RemoteFile, RemoteError>> + Send + 'a>> {
        Box::pin(async move {
            let file = self.0.media(server, media_id).await.map_err(|error| said_of(server, &error))?;
            Ok(RemoteFile { content_type: file.content_type, filename: file.filename, body: file.body })
        })
    }
}

fn said_of(server: &ServerName, error: &FederationError) -> RemoteError {
    let server = server.to_owned();
    match error {
        FederationError::Refused(_) => RemoteError::Refused(server),
        FederationError::Status { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => {
            RemoteError::NotYetUploaded(server)
        }
        FederationError::Status { errcode, .. } if errcode == "M_TOO_LARGE" => RemoteError::TooLarge(server),
        FederationError::Status { status: 404, .. } => RemoteError::NotFound(server),
        error => RemoteError::Failed { server, reason: error.to_string() },
    }
}

/// The media of this server.
pub(crate) async fn open(
    config: &Config,
    environment: &Environment,
    store: &Store,
    client: Client,
    route: Route,
) -> Result<Media, String> {
    let remote = std::sync::Arc::new(FromOtherServers(client));
    let (settings, directory) = (config.media.clone(), config.media_path());
    Media::open(environment.clone(), store.clone(), settings, directory, remote, route)
        .await
        .map_err(|error| format!("the media store: {error}"))
}
