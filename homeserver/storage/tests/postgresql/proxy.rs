//! Stands between the engine and its server, and cuts a connection exactly where that hurts.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Where the next connection that commits is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server never hears of the commit.
    BeforeCommit,
    /// The server has committed; the client never hears of it.
    AfterCommit,
}

/// A proxy that ends with the runtime.
pub(crate) struct Proxy {
    port: u16,
    planned: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// Passes connections on to a server's loopback address.
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let planned = Arc::new(Mutex::new(None));
        let plan = Arc::clone(&planned);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                pass(client, server, Arc::clone(&plan));
            }
        });
        Self { port, planned }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts once.
    pub(crate) fn plan(&self, cut: Cut) {
        *self.planned.lock() = Some(cut);
    }

    /// Whether the planned cut was made.
    pub(crate) fn has_cut(&self) -> bool {
        self.planned.lock().is_none()
    }
}

fn pass(client: TcpStream, server: TcpStream, planned: Arc<Mutex<Option<Cut>>>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let plan = Arc::clone(&planned);
    let asking = tokio::spawn(pass_until(from_client, to_server, planned, Cut::BeforeCommit));
    tokio::spawn(async move {
        pass_until(from_server, to_client, plan, Cut::AfterCommit).await;
        asking.abort();
    });
}

/// Passes bytes on, up to those that speak of a commit if it is to be cut here: its statement on the way to the server, the
/// server's answer on the way back. Either text ends with a zero byte.
async fn pass_until(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    planned: Arc<Mutex<Option<Cut>>>,
    cut: Cut,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        if bytes.windows(7).any(|text| text == b"COMMIT\0")
            && planned.lock().take_if(|at| *at == cut).is_some()
        {
            return;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
