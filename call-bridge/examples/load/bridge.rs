//! The bridge under load: started for the run, or running already.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use entente_call_bridge::{ApiKey, Claims, VideoGrant};
use entente_environment::Environment;
use tokio::net::TcpStream;

use crate::Failure;

/// The one room of a run.
const ROOM: &str = "load";
/// How long tokens are valid; longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);
/// How long the bridge may take to begin.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The kernel counts processor time in hundredths of a second, whatever its own clock (`proc(5)`).
const TICKS_PER_SECOND: u32 = 100;

/// A bridge that clients can join.
pub(crate) struct Bridge {
    /// Where its HTTP is: a host and a port.
    pub(crate) authority: String,
    key: ApiKey,
    process: u32,
    child: Option<Child>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time in the program itself.
    pub(crate) user: Duration,
    /// Processor time in the kernel for it.
    pub(crate) system: Duration,
    /// Memory that is in use at the moment, in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// What it has used since an earlier look, but for memory, which is as it is now.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            resident: self.resident,
        }
    }

    /// Processor time of both kinds.
    pub(crate) fn processor(self) -> Duration {
        self.user + self.system
    }
}

impl Bridge {
    /// Starts `program`, an example `standalone`, on ports that are free.
    pub(crate) async fn start(
        program: &Path,
        workers: u32,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let secret = environment.randomness().alphanumeric(40);
        let key = ApiKey { name: "load".to_owned(), secret };
        let authority = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let child = Command::new(program)
            .args(["--listen", &authority, "--udp-port", "0", "--workers", &workers.to_string()])
            .args(["--key", &key.name, "--secret", &key.secret])
            .env("RUST_LOG", "warn,str0m=error")
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        let mut bridge = Self { authority, key, process: child.id(), child: Some(child) };
        let give_up_at = environment.clock().monotonic() + START_WITHIN;
        while TcpStream::connect(&bridge.authority).await.is_err() {
            if let Some(child) = &mut bridge.child
                && let Some(status) = child.try_wait()?
            {
                return Err(format!("the bridge ended: {status}").into());
            }
            if environment.clock().monotonic() > give_up_at {
                return Err("the bridge does not begin".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(bridge)
    }

    /// One that runs already, as this process.
    pub(crate) fn running(authority: String, key: ApiKey, process: u32) -> Self {
        Self { authority, key, process, child: None }
    }

    /// A token by which `identity` joins.
    pub(crate) fn token(&self, environment: &Environment, identity: &str) -> String {
        let video =
            VideoGrant { room: ROOM.to_owned(), room_join: true, room_create: true, ..VideoGrant::default() };
        let claims = Claims { sub: identity.to_owned(), video, ..Claims::default() };
        self.key.sign(claims, environment.now(), TOKEN_LIFETIME)
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process))?;
        // The name, in parentheses, may contain anything.
        let (_, fields) = stat.rsplit_once(')').ok_or("no process statistics")?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
        let mut next = || times.next().ok_or("no processor times")?.map_err(|_| "no processor times");
        let (user, system) = (next()?, next()?);
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()).unwrap_or("0");
        Ok(Usage {
            user: Duration::from_secs(1) * user / TICKS_PER_SECOND,
            system: Duration::from_secs(1) * system / TICKS_PER_SECOND,
            resident: resident.parse::<u64>()? * 1_024,
        })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
