//! The file that makes an application service known to its homeserver.

use std::{io::Write as _, path::Path};

use entente_environment::Environment;
use serde::{Deserialize, Serialize};

/// A registration file, by the [specification](https://spec.matrix.org/v1.18/application-service-api/#registration) and, for
/// encryption, MSC3202 and MSC4190 under the names that homeservers know today.
#[derive(Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the file has as many switches")]
pub struct Registration {
    /// What the homeserver calls the service.
    pub id: String,
    /// Where the homeserver reaches the service; nothing is pushed without.
    pub url: Option<String>,
    /// What the service proves itself with to the homeserver.
    pub as_token: String,
    /// What the homeserver proves itself with to the service.
    pub hs_token: String,
    /// The localpart of the service's own user, the bot.
    pub sender_localpart: String,
    /// Whether the homeserver's rate limits hold for the service's users.
    #[serde(default)]
    pub rate_limited: bool,
    /// Which users, aliases and rooms are the service's.
    pub namespaces: Namespaces,
    /// The networks that the service is asked about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<String>,
    /// Typing, receipts and messages to devices are pushed as well.
    #[serde(default)]
    pub receive_ephemeral: bool,
    /// The same under its name from before it was specified (MSC2409).
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    pub unstable_push_ephemeral: bool,
    /// Device lists and counts of one-time keys are pushed as well (MSC3202).
    #[serde(default, rename = "org.matrix.msc3202")]
    pub device_changes: bool,
    /// Devices are made without logging in, keys replaced without asking a person (MSC4190).
    #[serde(default, rename = "io.element.msc4190")]
    pub device_management: bool,
}

/// Which users, aliases and rooms are a service's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// User ids.
    #[serde(default)]
    pub users: Vec<Namespace>,
    /// Room aliases.
    #[serde(default)]
    pub aliases: Vec<Namespace>,
    /// Room ids.
    #[serde(default)]
    pub rooms: Vec<Namespace>,
}

/// A regular expression, and whether nobody else may use what it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Whether nobody else may use what it matches.
    pub exclusive: bool,
    /// The expression, matched against the whole identifier.
    pub regex: String,
}

/// Why a registration file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The file cannot be read or written.
    #[error("the registration file cannot be used: {0}")]
    File(#[from] std::io::Error),
    /// It is larger than 64 KiB.
    #[error("the registration file is larger than {MOST_BYTES} bytes")]
    TooLarge,
    /// It is not what a registration file is.
    #[error("the registration file cannot be understood: {0}")]
    Yaml(String),
    /// A token is too short to be a secret.
    #[error("as_token and hs_token must differ and have at least {LEAST_TOKEN} characters")]
    WeakToken,
}

const MOST_BYTES: u64 = 64 * 1024;
const LEAST_TOKEN: usize = 16;
const TOKEN_LENGTH: usize = 64;

impl std::fmt::Debug for Registration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Registration")
            .field("id", &self.id)
            .field("url", &self.url)
            .field("sender_localpart", &self.sender_localpart)
            .field("namespaces", &self.namespaces)
            .finish_non_exhaustive()
    }
}

impl Registration {
    /// A registration with fresh tokens for a service that the homeserver reaches at `url`, whose bot is `sender_localpart`.
    /// Everything that encryption needs is asked for.
    pub fn generate(id: &str, url: &str, sender_localpart: &str, environment: &Environment) -> Self {
        let token = || environment.randomness().alphanumeric(TOKEN_LENGTH);
        Self {
            id: id.to_owned(),
            url: Some(url.to_owned()),
            as_token: token(),
            hs_token: token(),
            sender_localpart: sender_localpart.to_owned(),
            rate_limited: false,
            namespaces: Namespaces::default(),
            protocols: Vec::new(),
            receive_ephemeral: true,
            unstable_push_ephemeral: true,
            device_changes: true,
            device_management: true,
        }
    }

    /// Makes all users whose localpart begins with `prefix` ghosts of the service, on the server of that name.
    #[must_use]
    pub fn with_ghosts(mut self, prefix: &str, server_name: &str) -> Self {
        let regex = format!("@{}.*:{}", escape(prefix), escape(server_name));
        self.namespaces.users.push(Namespace { exclusive: true, regex });
        self
    }

    /// Makes all aliases that begin with `prefix` the service's, on the server of that name.
    #[must_use]
    pub fn with_aliases(mut self, prefix: &str, server_name: &str) -> Self {
        let regex = format!("#{}.*:{}", escape(prefix), escape(server_name));
        self.namespaces.aliases.push(Namespace { exclusive: true, regex });
        self
    }

    /// Makes the service one that is asked about this network.
    #[must_use]
    pub fn with_protocol(mut self, name: &str) -> Self {
        self.protocols.push(name.to_owned());
        self
    }

    /// The file as YAML.
    pub fn to_yaml(&self) -> Result<String, RegistrationError> {
        serde_saphyr::to_string(self).map_err(|error| RegistrationError::Yaml(error.to_string()))
    }

    /// Understands a file. The tokens must be such that nobody guesses them.
    pub fn from_yaml(text: &str) -> Result<Self, RegistrationError> {
        let registration: Self =
            serde_saphyr::from_str(text).map_err(|error| RegistrationError::Yaml(error.to_string()))?;
        let tokens = [&registration.as_token, &registration.hs_token];
        if tokens.iter().any(|token| token.len() < LEAST_TOKEN)
            || registration.as_token == registration.hs_token
        {
            return Err(RegistrationError::WeakToken);
        }
        Ok(registration)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, RegistrationError> {
        if std::fs::metadata(path)?.len() > MOST_BYTES {
            return Err(RegistrationError::TooLarge);
        }
        Self::from_yaml(&std::fs::read_to_string(path)?)
    }

    /// Writes a file that only its owner may read. An existing one is not touched: its tokens are in use.
    pub fn write_new(&self, path: &Path) -> Result<(), RegistrationError> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(self.to_yaml()?.as_bytes())?;
        file.sync_all()?;
        Ok(())
    }
}

/// The text as a regular expression that matches nothing else.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(
            character,
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' | '|' | '\\'
        ) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        Registration::generate("echo", "http://127.0.0.1:29300", "echo", &Environment::system())
            .with_ghosts("_echo_", "example.org")
    }

    #[test]
    fn a_file_reads_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registration.yaml");
        let written = registration();
        written.write_new(&path).unwrap();
        let read = Registration::read(&path).unwrap();
        assert_eq!(read.as_token, written.as_token);
        assert_eq!(read.hs_token, written.hs_token);
        assert_eq!(read.namespaces, written.namespaces);
        assert!(read.device_changes && read.device_management && read.receive_ephemeral);
        assert!(
            matches!(written.write_new(&path), Err(RegistrationError::File(_))),
            "tokens in use are kept"
        );
    }

    #[test]
    fn names_are_matched_as_they_are() {
        assert_eq!(registration().namespaces.users[0].regex, "@_echo_.*:example\\.org");
    }

    #[test]
    fn tokens_that_can_be_guessed_are_refused() {
        let mut weak = registration();
        weak.hs_token = "secret".to_owned();
        assert!(matches!(
            Registration::from_yaml(&weak.to_yaml().unwrap()),
            Err(RegistrationError::WeakToken)
        ));
        let mut same = registration();
        same.hs_token = same.as_token.clone();
        assert!(matches!(
            Registration::from_yaml(&same.to_yaml().unwrap()),
            Err(RegistrationError::WeakToken)
        ));
    }

    #[test]
    fn secrets_are_not_shown() {
        let registration = registration();
        let shown = format!("{registration:?}");
        assert!(!shown.contains(&registration.as_token) && !shown.contains(&registration.hs_token));
    }
}
