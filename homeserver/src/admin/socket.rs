use std::{os::unix::fs::PermissionsExt, path::Path, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{AdminRequest, Operator, requests::AdminAnswer};

/// A request has at most this many bytes.
const MOST_REQUEST_BYTES: u64 = 64 * 1024;
/// A client must have sent its request after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket of a running server. Its file goes when this is dropped.
pub(crate) struct AdminSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl AdminSocket {
    /// Makes the socket. One that a crashed server left behind is replaced; the store's own lock keeps two servers apart.
    pub(crate) fn bind(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Answers operators for as long as it is polled.
    pub(crate) async fn serve(self, operator: Operator) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin socket failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let operator = operator.clone();
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &operator).await {
                    tracing::warn!(%error, "a connection to the admin socket broke");
                }
            });
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, operator: &Operator) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MOST_REQUEST_BYTES));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<AdminRequest>(&line) {
        Ok(request) => request.run(operator).await,
        Err(error) => AdminAnswer::Refused(format!("the request cannot be read: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
