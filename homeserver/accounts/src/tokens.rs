use entente_environment::Randomness;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a token: what is stored instead of it. Tokens have some 190 bits of entropy, so the digest needs no salt, and
/// finding a row by it tells nobody how much of a guess was right.
pub(crate) type Digest = [u8; 32];

const RANDOM_CHARACTERS: usize = 32;

pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// What a token is for: the first letters of its text, so that one that turns up somewhere can be told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenKind {
    Access,
    Refresh,
    Login,
    OpenId,
    Interactive,
}

impl TokenKind {
    pub(crate) fn generate(self, randomness: &Randomness) -> String {
        let prefix = match self {
            Self::Access => "ena",
            Self::Refresh => "enr",
            Self::Login => "enl",
            Self::OpenId => "eno",
            Self::Interactive => "enu",
        };
        format!("{prefix}_{}", randomness.alphanumeric(RANDOM_CHARACTERS))
    }
}
