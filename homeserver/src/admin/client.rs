use std::io::ErrorKind;

use entente_config::Config;
use entente_environment::Environment;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use super::{AdminRequest, Operator, requests::AdminAnswer};
use crate::{appservices, serve, store};

/// Has a request done by the running server, or, if none runs, on the store itself. Answers a sentence for the operator.
pub(crate) async fn send(
    request: AdminRequest,
    config: &Config,
    environment: &Environment,
) -> Result<String, String> {
    let socket = &config.admin_socket();
    let answer = match UnixStream::connect(socket).await {
        Ok(stream) => over_socket(stream, &request).await.map_err(|error| {
            format!("the connection to the server at {} broke: {error}", socket.display())
        })?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            on_store(request, config, environment).await?
        }
        Err(error) => return Err(format!("the server at {} cannot be reached: {error}", socket.display())),
    };
    match answer {
        AdminAnswer::Done(message) => Ok(message),
        AdminAnswer::Refused(message) => Err(message),
    }
}

async fn on_store(
    request: AdminRequest,
    config: &Config,
    environment: &Environment,
) -> Result<AdminAnswer, String> {
    let store = store::open(config).await?;
    let accounts = serve::open_accounts(config, environment, &store).await?;
    let operator = Operator {
        accounts,
        store: store.clone(),
        environment: environment.clone(),
        registrations: appservices::registrations(config, &store)?,
        appservices: None,
        media: None,
        bridge: None,
    };
    let answer = request.run(&operator).await;
    store.close().await.map_err(|error| format!("the store did not close in order: {error}"))?;
    Ok(answer)
}

async fn over_socket(mut stream: UnixStream, request: &AdminRequest) -> std::io::Result<AdminAnswer> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
