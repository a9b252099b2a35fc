//! A PostgreSQL server of the tests' own: an empty cluster in a temporary directory, on a port that was free, gone when the
//! test process is, however that ended.
//!
//! `ENTENTE_TEST_POSTGRESQL` may name another server by the URL of one of its databases, without encryption and with a user
//! who may create databases and end connections. Most tests are then run on that one; the databases are left there.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The variable that names a server to be used instead.
const OTHER_SERVER: &str = "ENTENTE_TEST_POSTGRESQL";

/// A running server.
pub(crate) struct TemporaryPostgres {
    /// Of the database from which others are made.
    url: String,
    /// `None` if the server is not ours.
    own: Option<OwnServer>,
}

struct OwnServer {
    port: u16,
    binaries: PathBuf,
    directory: PathBuf,
    /// Ends the server when its standard input closes, which happens with this process at the latest.
    guard: Child,
}

impl TemporaryPostgres {
    /// The server that all tests of this process share. Starts at the first call.
    #[expect(clippy::disallowed_methods, reason = "whoever runs the tests says so by the environment")]
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<TemporaryPostgres> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(OTHER_SERVER) {
            Ok(url) if !url.is_empty() => Self { url, own: None },
            _ => Self::start(),
        })
    }

    /// A server of the caller's own.
    pub(crate) fn start() -> Self {
        let own = OwnServer::start();
        Self { url: format!("postgresql://entente@127.0.0.1:{}/postgres", own.port), own: Some(own) }
    }

    /// A database of its own, as a URL.
    pub(crate) async fn create_database(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("entente_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        self.execute(&format!("CREATE DATABASE {name}")).await;
        with_database(&self.url, &name)
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.own().directory
    }

    /// Runs a statement as the administrator.
    pub(crate) async fn execute(&self, statement: &str) {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
    }

    /// Stops the server as a crash would, and starts it again.
    pub(crate) fn crash_and_restart(&self) {
        self.own().crash_and_restart();
    }

    /// Has the server encrypt connections that ask for it, with this certificate and its key in PEM form. Restarts it.
    pub(crate) async fn enable_tls(&self, certificate: &str, key: &str) {
        // The names that it looks for by default.
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.directory().join("data").join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                assert!(Command::new("chown").arg("postgres").arg(&path).status().unwrap().success());
            }
        }
        self.execute("ALTER SYSTEM SET ssl = on").await;
        self.crash_and_restart();
    }

    fn own(&self) -> &OwnServer {
        self.own.as_ref().expect("the test starts a server of its own")
    }
}

impl OwnServer {
    fn start() -> Self {
        let binaries = binaries();
        let directory = TempDir::with_prefix("entente-postgresql-").unwrap().keep();
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&directory).status().unwrap();
            assert!(owned.success());
        }
        let data = directory.join("data");
        let made = as_server_user(&binaries.join("initdb"))
            .args(["--auth=trust", "--username=entente", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut guard = start_server(&binaries, &directory, port);
        let mut said = String::new();
        // The guard itself says so: a test that restarted the server under its hands would leave it unguarded.
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "started\n", "PostgreSQL did not start; see {}", directory.display());
        Self { port, binaries, directory, guard }
    }

    fn crash_and_restart(&self) {
        let data = self.directory.join("data");
        for arguments in [["stop", "-m", "immediate"].as_slice(), ["start"].as_slice()] {
            let status = as_server_user(&self.binaries.join("pg_ctl"))
                .args(arguments)
                .args(["-w", "-s", "-D"])
                .arg(&data)
                .args(["-o", &options(&self.directory, self.port)])
                .args(["-l"])
                .arg(self.directory.join("log"))
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "pg_ctl {arguments:?}");
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The URL of another database of the same server.
fn with_database(url: &str, name: &str) -> String {
    let (place, parameters) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    let server = place.find("://").map_or(0, |at| at + 3);
    let end = place[server..].find('/').map_or(place.len(), |at| server + at);
    format!("{}/{name}{parameters}", &place[..end])
}

fn options(directory: &Path, port: u16) -> String {
    format!("-h 127.0.0.1 -p {port} -k {} -c max_connections=200", directory.display())
}

/// A shell stands between: it stops the server and removes the directory when its standard input ends.
fn start_server(binaries: &Path, directory: &Path, port: u16) -> Child {
    let script = r#"
        "$1/pg_ctl" start -s -D "$2/data" -l "$2/log" -o "$3" || exit 1
        echo started
        read -r _
        "$1/pg_ctl" stop -s -m immediate -D "$2/data"
        rm -rf "$2"
    "#;
    as_server_user(Path::new("/bin/sh"))
        .args(["-c", script, "sh"])
        .arg(binaries)
        .arg(directory)
        .arg(options(directory, port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// PostgreSQL refuses to run as root.
fn as_server_user(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// Where Debian keeps the newest version, or wherever `pg_config` says.
fn binaries() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        debian.map(|version| version.path().join("bin")).filter(|path| path.join("initdb").exists()).max();
    newest.unwrap_or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output();
        let output = output.expect("PostgreSQL is not installed: apt-get install postgresql");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}
