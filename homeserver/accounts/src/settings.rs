use std::time::Duration;

/// What the operator decides about accounts.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a decision of its own")]
pub struct Settings {
    /// Whether anybody may register without a token.
    pub open_registration: bool,
    /// Whether a registration token lets its holder register.
    pub registration_tokens: bool,
    /// Whether anybody may be a guest.
    pub guests: bool,
    /// Localparts that nobody may register.
    pub reserved_names: Vec<String>,
    /// Whether users may log in with a password.
    pub password_login: bool,
    /// The fewest characters of a password.
    pub minimum_password_length: usize,
    /// The most bytes of a password.
    pub maximum_password_bytes: usize,
    /// How long an access token lives that can be refreshed.
    pub refreshable_access_token_lifetime: Duration,
    /// How long an access token lives that can't be refreshed; `None`: until logout.
    pub access_token_lifetime: Option<Duration>,
    /// How long a refresh token lives; `None`: until it is used.
    pub refresh_token_lifetime: Option<Duration>,
    /// How long a token from `POST /login/get_token` lives.
    pub login_token_lifetime: Duration,
    /// How long an `OpenID` token lives.
    pub openid_token_lifetime: Duration,
    /// How long a client may take for user-interactive authentication.
    pub uia_session_lifetime: Duration,
    /// Whether users may change their passwords.
    pub change_password: bool,
    /// Whether users may deactivate their accounts.
    pub deactivation: bool,
    /// Whether users may change their display names.
    pub change_display_name: bool,
    /// Whether users may change their avatars.
    pub change_avatar: bool,
    /// Whether it is told who is here.
    pub presence: bool,
    /// How long a new account is valid; `None`: for ever.
    pub validity: Option<Duration>,
    /// The cost of a password hash.
    pub argon2: Argon2Parameters,
}

/// The cost of a password hash with Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Parameters {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Default for Argon2Parameters {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, iterations: 2, parallelism: 1 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            open_registration: false,
            registration_tokens: true,
            guests: false,
            reserved_names: Vec::new(),
            password_login: true,
            minimum_password_length: 8,
            maximum_password_bytes: 512,
            refreshable_access_token_lifetime: Duration::from_secs(5 * 60),
            access_token_lifetime: None,
            refresh_token_lifetime: None,
            login_token_lifetime: Duration::from_secs(2 * 60),
            openid_token_lifetime: Duration::from_secs(60 * 60),
            uia_session_lifetime: Duration::from_secs(15 * 60),
            change_password: true,
            deactivation: true,
            change_display_name: true,
            change_avatar: true,
            presence: true,
            validity: None,
            argon2: Argon2Parameters::default(),
        }
    }
}
