//! The shipped bots as processes of their own, and the way between them and the homeserver.

#![expect(clippy::disallowed_methods, reason = "tests read the environment")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use entente_tests::{SERVER_NAME, Server, free_port};
use matrix_sdk::ruma::{OwnedUserId, UserId};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use crate::eventually;

/// The directory with the programs: where the server's is, or what Cargo builds from this workspace.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        if let Some(given) = std::env::var_os("ENTENTE_TEST_PROGRAM") {
            return Path::new(&given).parent().unwrap().to_owned();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--quiet", "--package", "entente-bots"];
        assert!(Command::new(cargo).args(build).status().unwrap().success(), "the bots do not build");
        // This test is target/<profile>/deps/<test>.
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
    })
}

/// A bot: `echo`, `webhook` or `meeting`. Killed when it is dropped.
pub struct Bot {
    name: &'static str,
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Bot {
    /// A bot with a registration, that does not run yet.
    pub fn new(name: &'static str) -> Self {
        let bot = Self { name, directory: TempDir::new().unwrap(), port: free_port(), child: None };
        bot.configure("http://127.0.0.1:1", "");
        let url = format!("http://127.0.0.1:{}", bot.port);
        let mut command = bot.command();
        assert!(command.args(["register", "--url", &url]).status().unwrap().success());
        bot
    }

    /// A server that knows these bots.
    pub fn server(bots: &[&Self]) -> Server {
        let directory = TempDir::new().unwrap();
        let services = directory.path().join("services");
        std::fs::create_dir(&services).unwrap();
        for bot in bots {
            std::fs::copy(bot.registration(), services.join(format!("{}.yaml", bot.name))).unwrap();
        }
        Server::start(
            directory,
            &[
                ("ENTENTE_REGISTRATION__OPEN", "true"),
                ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
                ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
                ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
                ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"services\"]"),
            ],
        )
    }

    /// Its user.
    pub fn id(&self) -> OwnedUserId {
        UserId::parse(format!("@{}:{SERVER_NAME}", self.name)).unwrap()
    }

    /// Where its keys and its store are.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What it proves itself with to the homeserver.
    pub fn as_token(&self) -> String {
        let registration = std::fs::read_to_string(self.registration()).unwrap();
        let token = registration.lines().find_map(|line| line.strip_prefix("as_token: ")).unwrap();
        token.trim_matches(['"', '\'']).to_owned()
    }

    fn registration(&self) -> PathBuf {
        self.directory.path().join("registration.yaml")
    }

    fn configure(&self, homeserver_url: &str, options: &str) {
        let config = format!(
            "[service]\nhomeserver_url = \"{homeserver_url}\"\nserver_name = \"{SERVER_NAME}\"\n\
             listen = \"127.0.0.1:{}\"\ndata = \"{}\"\n[service.encryption]\nwho = \"bot\"\nkey_backup = true\n{options}",
            self.port,
            self.data().display(),
        );
        std::fs::write(self.directory.path().join("bot.toml"), config).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(programs().join(format!("entente-{}-bot", self.name)));
        let log = self.directory.path().join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command
            .arg("--config")
            .arg(self.directory.path().join("bot.toml"))
            .stdout(log)
            .stderr(Stdio::inherit());
        command
    }

    /// Starts it, with the options of its kind, and waits until it can be reached.
    pub async fn start(&mut self, homeserver_url: &str, options: &str) {
        self.configure(homeserver_url, options);
        self.child = Some(self.command().spawn().unwrap());
        let address = ("127.0.0.1", self.port);
        eventually("the bot", || async { TcpStream::connect(address).await.ok() }).await;
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A way to the homeserver on which, on demand, the answers to messages get lost.
pub struct Way {
    /// Its near end.
    pub url: String,
    losses: Arc<Losses>,
}

#[derive(Default)]
struct Losses {
    loses: AtomicBool,
    lost: Notify,
}

impl Way {
    /// A way to this server.
    pub async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let losses = Arc::<Losses>::default();
        let (target, carrying) =
            (server.base_url.trim_start_matches("http://").to_owned(), Arc::clone(&losses));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.unwrap();
                let (near_reader, near_writer) = near.into_split();
                let (far_reader, far_writer) = far.into_split();
                let is_lost = Arc::new(AtomicBool::new(false));
                tokio::spawn(ask(near_reader, far_writer, Arc::clone(&carrying), Arc::clone(&is_lost)));
                tokio::spawn(answer(far_reader, near_writer, Arc::clone(&carrying), is_lost));
            }
        });
        Self { url, losses }
    }

    /// Whether the answers to messages get lost from here on.
    pub fn lose_answers(&self, loses: bool) {
        self.losses.loses.store(loses, Ordering::SeqCst);
    }

    /// Waits until an answer got lost: the server has the message, and who sent it does not know.
    pub async fn until_lost(&self) {
        tokio::time::timeout(crate::PATIENCE, self.losses.lost.notified()).await.expect("a message is sent");
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losses: Arc<Losses>, is_lost: Arc<AtomicBool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let is_message = buffer[..read].windows(6).any(|window| window == b"/send/");
        if is_message && losses.loses.load(Ordering::SeqCst) {
            is_lost.store(true, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    losses: Arc<Losses>,
    is_lost: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if is_lost.load(Ordering::SeqCst) {
            losses.lost.notify_one();
        } else if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
