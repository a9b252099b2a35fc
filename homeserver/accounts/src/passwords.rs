use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash,
};
use entente_environment::Randomness;
use tokio::sync::Semaphore;

use crate::{AccountError, Argon2Parameters};

/// Passwords that are hashed at the same time: each takes `argon2.memory_kib` of memory and a processor.
const MOST_AT_ONCE: usize = 2;

/// Hashes and verifies passwords, off the runtime's threads and a few at a time.
#[derive(Debug)]
pub(crate) struct Passwords {
    argon2: Argon2<'static>,
    randomness: Randomness,
    permits: Arc<Semaphore>,
    /// Verified when there is no user, so that the answer takes as long as if there were one.
    decoy: String,
}

impl Passwords {
    pub(crate) fn new(parameters: Argon2Parameters, randomness: Randomness) -> Result<Self, AccountError> {
        let Argon2Parameters { memory_kib, iterations, parallelism } = parameters;
        let parameters = Params::new(memory_kib, iterations, parallelism, None)
            .map_err(|error| AccountError::Internal(format!("argon2 parameters: {error}")))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        let decoy = hash(&argon2, "", randomness.bytes())?;
        Ok(Self { argon2, randomness, permits: Arc::new(Semaphore::new(MOST_AT_ONCE)), decoy })
    }

    /// The hash of a password, in the PHC string format.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, AccountError> {
        let (argon2, salt, password) = (self.argon2.clone(), self.randomness.bytes(), password.to_owned());
        self.off_the_runtime(move || hash(&argon2, &password, salt)).await?
    }

    /// Whether the password is the one that was hashed. Takes as long when there is no hash.
    pub(crate) async fn verify(&self, password: &str, hashed: Option<&str>) -> Result<bool, AccountError> {
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let has_hash = hashed.is_some();
        let hashed = hashed.unwrap_or(&self.decoy).to_owned();
        let matches = self
            .off_the_runtime(move || {
                let parsed = PasswordHash::new(&hashed).map_err(internal)?;
                Ok::<_, AccountError>(argon2.verify_password(password.as_bytes(), &parsed).is_ok())
            })
            .await??;
        Ok(matches && has_hash)
    }

    async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AccountError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(internal)?;
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(internal)
    }
}

fn hash(argon2: &Argon2<'_>, password: &str, salt: [u8; 16]) -> Result<String, AccountError> {
    let hashed = argon2.hash_password_with_salt(password.as_bytes(), &salt).map_err(internal)?;
    Ok(hashed.to_string())
}

fn internal(error: impl std::fmt::Display) -> AccountError {
    AccountError::Internal(error.to_string())
}
