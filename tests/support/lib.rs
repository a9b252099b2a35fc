//! Runs the real program, each time in a directory of its own, on ports that the system chooses, and speaks HTTP to it.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests read the environment and the time")]

mod federation;
mod http;
mod keys;
mod peer;
mod service;
mod synapse;
mod users;
mod wire;

pub use self::{
    federation::{Authority, free_port},
    http::{Answer, Caller},
    keys::Key,
    peer::{Peer, PeerAnswer, PeerRequest, PeerRoom},
    service::{Service, ServiceRequest},
    synapse::Synapse,
    users::{User, bodies, fresh_id, segment},
    wire::Wire,
};

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The server's name in tests that do not set another.
pub const SERVER_NAME: &str = "localhost:8008";
/// What should happen soon happens within this time, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(30);

/// The program: `ENTENTE_TEST_PROGRAM`, or what Cargo builds from this workspace.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = std::env::var_os("ENTENTE_TEST_PROGRAM") {
            return given.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("Cargo.toml");
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "entente", "--manifest-path"])
            .arg(manifest)
            .status()
            .unwrap();
        assert!(built.success(), "the program does not build");
        // This test is target/<profile>/deps/<test>.
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("entente")
    })
}

/// The program with this directory as its own, and with nothing of the environment that could be a setting. Calls are off unless a test
/// wants them: many servers run at once, and by default all of them hold calls at the same port.
pub fn entente(directory: &Path) -> Command {
    let mut command = Command::new(program());
    command.env_clear().current_dir(directory).env("ENTENTE_CALLS__ENABLED", "false");
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Settings of a server, as environment variables: `("ENTENTE_REGISTRATION__OPEN", "true")`.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// Nothing is limited, and passwords are hashed at the least cost: for tests of other things.
const UNHURRIED: Settings<'static> = &[
    ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
    ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
    ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
];

/// A server that was killed, with all that it left behind.
pub struct Crashed {
    directory: TempDir,
    settings: Vec<(String, String)>,
}

impl Crashed {
    /// Starts it again in the same place.
    #[must_use]
    pub fn restart(self) -> Server {
        Server::start_with(self.directory, self.settings)
    }
}

/// A running server. Killed when it is dropped.
pub struct Server {
    child: Child,
    directory: TempDir,
    settings: Vec<(String, String)>,
    greeting: String,
    /// `http://127.0.0.1:port`.
    pub base_url: String,
}

impl Server {
    /// A fresh server where anybody can register.
    pub fn open() -> Self {
        Self::with(&[("ENTENTE_REGISTRATION__OPEN", "true")])
    }

    /// A fresh server without rate limits and with these settings.
    pub fn with(settings: Settings<'_>) -> Self {
        Self::start(TempDir::new().unwrap(), &[UNHURRIED, settings].concat())
    }

    /// A fresh server with these settings only.
    pub fn with_only(settings: Settings<'_>) -> Self {
        Self::start(TempDir::new().unwrap(), settings)
    }

    /// A server in a directory that may hold the data of an earlier one.
    pub fn start(directory: TempDir, settings: Settings<'_>) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self::start_with(directory, settings.iter().map(owned).collect())
    }

    fn start_with(directory: TempDir, settings: Vec<(String, String)>) -> Self {
        if !settings.iter().any(|(name, _)| name == "ENTENTE_CONFIG") {
            std::fs::write(
                directory.path().join("entente.toml"),
                "[[listeners]]\naddress = \"127.0.0.1:0\"\n",
            )
            .unwrap();
        }
        let mut command = entente(directory.path());
        command
            .env("ENTENTE_CONFIG", "entente.toml")
            .envs(settings.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(log_file(directory.path())).spawn().unwrap();
        let (greeting, address) = read_greeting(&mut child, directory.path());
        Self { child, base_url: format!("http://{address}"), directory, settings, greeting }
    }

    /// What it said on its standard output when it was ready.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// The token for the first administrator, which it printed at its first start.
    pub fn first_token(&self) -> Option<&str> {
        let (_, token) = self.greeting.split_once("with this token, once:")?;
        token.split_whitespace().next()
    }

    /// Its working directory; the data is under `data`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has, in bytes.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// How much memory it has had at the most, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// The command line with this server's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = entente(self.directory.path());
        command.env("ENTENTE_CONFIG", "entente.toml");
        command.envs(self.settings.iter().map(|(name, value)| (name, value))).args(arguments);
        command
    }

    /// Whoever has no access token.
    pub fn anonymous(&self) -> Caller {
        Caller::new(&self.base_url, None)
    }

    /// Whoever has this access token.
    pub fn caller(&self, access_token: &str) -> Caller {
        Caller::new(&self.base_url, Some(access_token))
    }

    /// Registers a user on a server where anybody can, and is logged in as that user.
    pub async fn register(&self, name: &str, password: &str) -> Caller {
        let body = serde_json::json!({
            "username": name, "password": password, "auth": { "type": "m.login.dummy" },
        });
        let answer = self.anonymous().post("/_matrix/client/v3/register", &body).await.ok();
        self.caller(answer["access_token"].as_str().unwrap())
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended by itself or by a signal.
    pub fn wait(&mut self) -> ExitStatus {
        let give_up_at = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up_at, "the server does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it in order. Answers its directory, for the next.
    pub fn stop(mut self) -> TempDir {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
        self.leave_directory()
    }

    /// Kills it as a crash would. Answers its directory, for the next.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.leave_directory()
    }

    /// Ends it by [`Server::kill`] and starts it again in the same place.
    #[must_use]
    pub fn crash_and_restart(self) -> Self {
        self.crash().restart()
    }

    /// Ends it by [`Server::kill`].
    #[must_use]
    pub fn crash(self) -> Crashed {
        let settings = self.settings.clone();
        Crashed { directory: self.kill(), settings }
    }

    fn leave_directory(&mut self) -> TempDir {
        std::mem::replace(&mut self.directory, TempDir::new().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_file(directory: &Path) -> Stdio {
    std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap().into()
}

/// Reads until the server has said where it is.
fn read_greeting(child: &mut Child, directory: &Path) -> (String, String) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut greeting = String::new();
    let mut address = None;
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(read > 0, "no server: {greeting}{}", log());
        greeting.push_str(&line);
        if let Some((_, listens)) = line.split_once("is running as ") {
            let (_, addresses) = listens.split_once(" on ").unwrap();
            address =
                Some(addresses.split([',', ' ']).next().unwrap().trim_end_matches(['.', '\n']).to_owned());
        }
        if line.starts_with("Ctrl-C") {
            return (greeting, address.unwrap());
        }
    }
}

/// Runs a command with this standard input. Answers what it printed.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses without reading closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a command that must succeed printed, without its last line break.
pub fn run_well(command: &mut Command, input: &str) -> String {
    let output = run(command, input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// What is at a port that answers one request with everything it has, read to its end.
pub fn read_to_end(mut stream: impl std::io::Read) -> String {
    let mut text = String::new();
    let _ = stream.by_ref().take(1024 * 1024).read_to_string(&mut text);
    text
}
