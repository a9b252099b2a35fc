use std::time::Duration;

use axum::{
    extract::{
        Query, State,
        rejection::QueryRejection,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{
    CallBridge,
    access::{AccessError, token},
    pace::Pace,
};
use crate::{
    Admitted, Claims,
    proto::{SignalRequest, read},
    room::{ConnectionKey, Newcomer},
    session::{JoinParameters, V0Query},
    worker::{Command, Responses, sink},
};

/// The largest request, in bytes: an offer of a hundred sections fits.
const MAXIMUM_MESSAGE: usize = 512 * 1_024;
/// Who does not take a response in this time is gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Requests of a client that are taken at once, and in a second; more wait.
const BURST: u32 = 200;
const PER_SECOND: u32 = 50;

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

#[derive(Deserialize)]
pub(super) struct Token {
    access_token: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct V1Query {
    join_request: Option<String>,
}

/// `GET /rtc`: signalling of a client with two peer connections.
pub(super) async fn v0(
    State(bridge): State<CallBridge>,
    headers: HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V0Query>, QueryRejection>,
    upgrade: Upgrade,
) -> Result<Response, AccessError> {
    let upgrade = upgrade.map_err(|_| AccessError::NoWebSocket)?;
    let (claims, parameters) = let_in_v0(&bridge, &headers, access, query).await?;
    Ok(accept(bridge, upgrade, claims, parameters))
}

/// `GET /rtc/v1`: signalling of a client with one peer connection.
pub(super) async fn v1(
    State(bridge): State<CallBridge>,
    headers: HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V1Query>, QueryRejection>,
    upgrade: Upgrade,
) -> Result<Response, AccessError> {
    let upgrade = upgrade.map_err(|_| AccessError::NoWebSocket)?;
    let (claims, parameters) = let_in_v1(&bridge, &headers, access, query).await?;
    Ok(accept(bridge, upgrade, claims, parameters))
}

/// `GET /rtc/validate`: says why `/rtc` does not let in, which browsers do not tell.
pub(super) async fn validate_v0(
    State(bridge): State<CallBridge>,
    headers: HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V0Query>, QueryRejection>,
) -> Result<&'static str, AccessError> {
    let_in_v0(&bridge, &headers, access, query).await?;
    Ok("success")
}

/// `GET /rtc/v1/validate`: the same for `/rtc/v1`.
pub(super) async fn validate_v1(
    State(bridge): State<CallBridge>,
    headers: HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V1Query>, QueryRejection>,
) -> Result<&'static str, AccessError> {
    let_in_v1(&bridge, &headers, access, query).await?;
    Ok("success")
}

async fn let_in_v0(
    bridge: &CallBridge,
    headers: &HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V0Query>, QueryRejection>,
) -> Result<(Claims, JoinParameters), AccessError> {
    let claims = claims(bridge, headers, access).await?;
    let Query(query) = query.map_err(|_| AccessError::Query)?;
    let parameters = JoinParameters::from(query);
    bridge.find_place(&claims, &parameters).await?;
    Ok((claims, parameters))
}

async fn let_in_v1(
    bridge: &CallBridge,
    headers: &HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
    query: Result<Query<V1Query>, QueryRejection>,
) -> Result<(Claims, JoinParameters), AccessError> {
    let claims = claims(bridge, headers, access).await?;
    let Query(query) = query.map_err(|_| AccessError::Query)?;
    let parameters = JoinParameters::from_join_request(query.join_request.as_deref())?;
    bridge.find_place(&claims, &parameters).await?;
    Ok((claims, parameters))
}

async fn claims(
    bridge: &CallBridge,
    headers: &HeaderMap,
    access: Result<Query<Token>, QueryRejection>,
) -> Result<Claims, AccessError> {
    let Query(access) = access.map_err(|_| AccessError::Query)?;
    bridge.admit(token(headers, access.access_token.as_deref())?).await
}

fn accept(
    bridge: CallBridge,
    upgrade: WebSocketUpgrade,
    claims: Claims,
    parameters: JoinParameters,
) -> Response {
    upgrade
        .max_message_size(MAXIMUM_MESSAGE)
        .max_frame_size(MAXIMUM_MESSAGE)
        .on_upgrade(async move |socket| serve(bridge, socket, claims, parameters).await)
}

/// Serves a client until one side has enough.
async fn serve(bridge: CallBridge, socket: WebSocket, claims: Claims, parameters: JoinParameters) {
    let workers = &bridge.shared.workers;
    let room = claims.video.room.clone();
    let Some(worker) = workers.of_room(&room) else { return };
    let connection = workers.new_connection();
    let (sink, responses) = sink();
    let may_create = bridge.may_create(&claims);
    let newcomer = Box::new(Newcomer { connection, claims: claims.clone(), parameters });
    if worker.send(Command::Join { room, may_create, newcomer, sink }).await.is_err() {
        return;
    }
    // What changed between the first question and the joining could not be applied to who was not there yet.
    // The bridge has ended if it cannot be asked.
    match bridge.ask_admission(&claims).await {
        Err(_) => drop(bridge.remove_participant(&claims.video.room, &claims.sub).await),
        Ok(Admitted::Publishing(may)) => drop(bridge.permit_owner(&claims.owner, may).await),
        Ok(_) => {}
    }
    let (outgoing, incoming) = socket.split();
    tokio::select! {
        () = listen(&bridge, incoming, connection, worker) => {}
        () = speak(outgoing, responses) => {}
    }
    // The worker has ended if it does not take this.
    let _ = worker.send(Command::Closed(connection)).await;
}

async fn listen(
    bridge: &CallBridge,
    mut incoming: impl StreamExt<Item = Result<Message, axum::Error>> + Unpin,
    connection: ConnectionKey,
    worker: &mpsc::Sender<Command>,
) {
    let clock = bridge.shared.environment.clock();
    let mut pace = Pace::new(clock.monotonic(), BURST, PER_SECOND);
    // The room hangs up on who falls silent.
    while let Some(Ok(message)) = incoming.next().await {
        let request = match message {
            Message::Binary(bytes) => read::<SignalRequest>("livekit.SignalRequest", &bytes),
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Ok(request) = request else { return };
        let wait = pace.wait(clock.monotonic());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if worker.send(Command::Signal(connection, Box::new(request))).await.is_err() {
            return;
        }
    }
}

async fn speak(mut outgoing: impl SinkExt<Message> + Unpin, mut responses: Responses) {
    while let Some(response) = responses.next().await {
        let sent = timeout(SEND_WITHIN, outgoing.send(Message::Binary(response.into()))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
    // Nobody is listening any more if this fails.
    let _ = timeout(SEND_WITHIN, outgoing.send(Message::Close(None))).await;
}
