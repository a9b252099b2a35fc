//! All settings together.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::{
    problem::{ConfigError, Problem},
    reading::{self, Node},
    sections::{
        Accounts, Acme, Admin, ApplicationServices, Calls, Federation, IdentityServer, Limits, Listener, Log,
        Login, Media, Metrics, Outbound, Presence, Push, RateLimits, Registration, Rooms, Sfu, Storage,
        Support, Turn, listeners,
    },
    validation,
    values::{DomainName, ServerName},
};

/// The settings of a server. Relative paths are relative to the directory in which the program runs.
///
/// Some settings have defaults that follow from others (everything that lies in the data directory, the public address).
/// Those are `Option`s here; the methods of the same names give what is to be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The name of the server, which is the part of its users' names after the colon. Can't be changed later.
    pub server_name: ServerName,
    /// Where clients reach the server; absent: it follows from the server's name. Read it through
    /// [`Config::public_base_url`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_base_url: Option<Url>,
    /// The directory in which everything lies that has no place of its own.
    pub data_dir: PathBuf,
    /// The addresses on which the server is reached.
    pub listeners: Vec<Listener>,
    /// Certificates from an authority.
    pub acme: Acme,
    /// Where rooms, accounts and everything but media are kept.
    pub storage: Storage,
    /// Where uploads and files fetched from other servers are kept.
    pub media: Media,
    /// Who may create an account.
    pub registration: Registration,
    /// How sessions begin and how long tokens live.
    pub login: Login,
    /// Passwords and what users may change.
    pub accounts: Accounts,
    /// What rooms are like unless their creator says otherwise.
    pub rooms: Rooms,
    /// Whether it is told who is here.
    pub presence: Presence,
    /// Which push gateways are spoken to, and what they are told.
    pub push: Push,
    /// How often one caller may ask.
    pub rate_limits: RateLimits,
    /// Which other servers this one speaks to.
    pub federation: Federation,
    /// The way that requests to other servers take.
    pub outbound: Outbound,
    /// Who knows which user an address belongs to.
    pub identity_servers: Vec<IdentityServer>,
    /// Bridges and bots that act for many users.
    pub application_services: ApplicationServices,
    /// Voice and video.
    pub calls: Calls,
    /// How calls reach clients that the network shuts in.
    pub turn: Turn,
    /// Whom users and other servers can turn to.
    pub support: Support,
    /// What one request, and all of them together, may take.
    pub limits: Limits,
    /// What the program writes about its work.
    pub log: Log,
    /// Numbers for monitoring.
    pub metrics: Metrics,
    /// How the command line reaches the running server.
    pub admin: Admin,
}

/// A server to try things with: `localhost:8008`, reached from this machine only, with everything in `./data`.
impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: ServerName::default(),
            public_base_url: None,
            data_dir: PathBuf::from("./data"),
            listeners: listeners::default_listeners(),
            acme: Acme::default(),
            storage: Storage::default(),
            media: Media::default(),
            registration: Registration::default(),
            login: Login::default(),
            accounts: Accounts::default(),
            rooms: Rooms::default(),
            presence: Presence::default(),
            push: Push::default(),
            rate_limits: RateLimits::default(),
            federation: Federation::default(),
            outbound: Outbound::default(),
            identity_servers: Vec::new(),
            application_services: ApplicationServices::default(),
            calls: Calls::default(),
            turn: Turn::default(),
            support: Support::default(),
            limits: Limits::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            admin: Admin::default(),
        }
    }
}

impl Config {
    /// Reads the settings from a file, where there is one, and from environment variables (names and values), which prevail
    /// over the file. Variables without the prefix `ENTENTE_` are ignored.
    ///
    /// The variable of `storage.engine` is `ENTENTE_STORAGE__ENGINE`. Its value is a TOML value if it reads as one, and else
    /// a string; a setting that is a string takes `123` as one, too.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Self::from_tree(Node::empty_table(None), environment) };
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            ConfigError::new(vec![Problem::new(None, format!("{name}: cannot be read: {error}"))])
        })?;
        Self::parse(&text, &name, environment)
    }

    /// Like [`Config::load`], from the text of a file that messages call `name`.
    pub fn parse(
        text: &str,
        name: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let tree = reading::parse_file(text, name).map_err(ConfigError::new)?;
        Self::from_tree(tree, environment)
    }

    fn from_tree(
        mut tree: Node,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut problems = reading::add_environment(&mut tree, environment);
        let reading = reading::read::<Self>(&mut tree);
        let mut at_fault: Vec<String> =
            problems.iter().filter_map(|problem| problem.setting().map(ToOwned::to_owned)).collect();
        for fault in reading.faults {
            at_fault.extend(fault.settings);
            problems.push(fault.problem);
        }
        if let Some(config) = &reading.value {
            problems.extend(validation::problems_in(config, &tree, &at_fault));
        }
        match reading.value {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::new(problems)),
        }
    }

    /// Where clients reach the server; ends in a slash. By default `https://` and the server's name, or
    /// `http://localhost:8008/` for the server to try things with.
    pub fn public_base_url(&self) -> Url {
        let Some(given) = &self.public_base_url else {
            let scheme = if self.is_for_trying() { "http" } else { "https" };
            return self.server_name.url(scheme);
        };
        let mut url = given.clone();
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        url
    }

    /// Whether this is the server to try things with.
    fn is_for_trying(&self) -> bool {
        self.server_name == ServerName::default()
    }

    /// Whether clients are offered a way to hold calls; by default on the server to try things with, which forwards them itself.
    pub fn holds_calls(&self) -> bool {
        self.calls.enabled.unwrap_or_else(|| self.is_for_trying() && self.calls.sfu == Sfu::Embedded)
    }

    /// The addresses of this machine at which clients reach calls; by default that of this machine alone on the server to try things with.
    pub fn call_addresses(&self) -> Vec<IpAddr> {
        if self.calls.addresses.is_empty() && self.is_for_trying() {
            return vec![Ipv4Addr::LOCALHOST.into()];
        }
        self.calls.addresses.clone()
    }

    /// The directory of the engine `fjall`; by default `store` in the data directory.
    pub fn store_path(&self) -> PathBuf {
        self.storage.fjall.path.clone().unwrap_or_else(|| self.data_dir.join("store"))
    }

    /// The directory of the engine `sled`; by default `sled` in the data directory.
    pub fn sled_path(&self) -> PathBuf {
        self.storage.sled.path.clone().unwrap_or_else(|| self.data_dir.join("sled"))
    }

    /// The directory of the media store `files`; by default `media` in the data directory.
    pub fn media_path(&self) -> PathBuf {
        self.media.files.path.clone().unwrap_or_else(|| self.data_dir.join("media"))
    }

    /// The directory of account key and certificates from the authority; by default `acme` in the data directory.
    pub fn acme_cache_dir(&self) -> PathBuf {
        self.acme.cache_dir.clone().unwrap_or_else(|| self.data_dir.join("acme"))
    }

    /// The names for which certificates are asked; by default the host of the public base URL. Empty only if that host is an
    /// address, and then no listener wants certificates of the authority.
    pub fn acme_domains(&self) -> Vec<DomainName> {
        if !self.acme.domains.is_empty() {
            return self.acme.domains.clone();
        }
        match self.public_base_url().host() {
            Some(Host::Domain(domain)) => domain.parse().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The socket of the command line; by default `admin.sock` in the data directory.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin.socket.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }

    /// Host and port that `/.well-known/matrix/server` announces to other servers; by default those of the public base URL.
    pub fn federation_address(&self) -> ServerName {
        let given = self.federation.public_address.clone();
        given.or_else(|| self.address_in_public_base_url()).unwrap_or_else(|| self.server_name.clone())
    }

    /// Host and port of the public base URL, unless they can't be written as a server name.
    pub(crate) fn address_in_public_base_url(&self) -> Option<ServerName> {
        let url = self.public_base_url();
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        format!("{host}:{port}").parse().ok()
    }

    /// The same settings, with those spelt out that follow from others.
    #[must_use]
    pub fn spelt_out(&self) -> Self {
        let mut config = self.clone();
        config.public_base_url = Some(self.public_base_url());
        config.storage.fjall.path = Some(self.store_path());
        config.storage.sled.path = Some(self.sled_path());
        config.media.files.path = Some(self.media_path());
        config.acme.cache_dir = Some(self.acme_cache_dir());
        config.admin.socket = Some(self.admin_socket());
        config.federation.public_address = Some(self.federation_address());
        config
    }
}
