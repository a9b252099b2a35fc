//! The content repository (C-S API, "Content repository"; S-S API, "Content repository").

mod download;
mod error;
mod extract;
pub(crate) mod headers;
mod peers;
mod preview;
pub(crate) mod range;
mod thumbnail;
mod upload;

use axum::{
    Router,
    routing::{get, post, put},
};

use crate::ApiState;

/// Endpoints at which a request may take as long as an upload takes.
pub(crate) const UPLOADS: [&str; 4] = [
    "/_matrix/media/v3/upload",
    "/_matrix/media/r0/upload",
    "/_matrix/media/v1/upload",
    "/_matrix/media/v3/upload/{server}/{media_id}",
];

/// For clients: uploads, downloads with a token, and those without one, which are frozen.
pub(crate) fn routes() -> Router<ApiState> {
    let [upload, upload_r0, upload_v1, promised] = UPLOADS;
    let mut routes = Router::new()
        .route(upload, post(upload::upload))
        .route(upload_r0, post(upload::upload))
        .route(upload_v1, post(upload::upload))
        .route(promised, put(upload::upload_promised))
        .route("/_matrix/media/v1/create", post(upload::promise))
        .route("/_matrix/client/v1/media/preview_url", get(preview::preview_url))
        .route("/_matrix/client/v1/media/config", get(upload::config))
        .route("/_matrix/client/v1/media/download/{server}/{media_id}", get(download::download))
        .route(
            "/_matrix/client/v1/media/download/{server}/{media_id}/{file_name}",
            get(download::download_as),
        )
        .route("/_matrix/client/v1/media/thumbnail/{server}/{media_id}", get(thumbnail::thumbnail));
    for version in ["v3", "r0", "v1"] {
        let base = format!("/_matrix/media/{version}");
        routes = routes
            .route(&format!("{base}/config"), get(upload::config))
            .route(&format!("{base}/preview_url"), get(preview::preview_url))
            .route(&format!("{base}/download/{{server}}/{{media_id}}"), get(download::frozen))
            .route(
                &format!("{base}/download/{{server}}/{{media_id}}/{{file_name}}"),
                get(download::frozen_as),
            )
            .route(&format!("{base}/thumbnail/{{server}}/{{media_id}}"), get(thumbnail::frozen));
    }
    routes
}

/// For other servers, which sign their requests.
pub(crate) fn federation_routes() -> Router<ApiState> {
    Router::new()
        .route("/_matrix/federation/v1/media/download/{media_id}", get(peers::download))
        .route("/_matrix/federation/v1/media/thumbnail/{media_id}", get(peers::thumbnail))
}
