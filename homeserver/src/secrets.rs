//! Secrets that the server makes for itself.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use entente_environment::Randomness;

/// Characters of a secret that is made here: 190 bits.
const SECRET_LENGTH: usize = 32;

/// The secret in a file, which is made if it is not there: what was signed with it stays valid through a restart.
pub(crate) fn kept(path: &Path, randomness: &Randomness) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(secret) if secret.trim().len() >= SECRET_LENGTH => return Ok(secret.trim().to_owned()),
        Ok(_) => return Err(io::Error::other(format!("it has less than {SECRET_LENGTH} bytes"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let secret = randomness.alphanumeric(SECRET_LENGTH);
    // Another name first: a file that is there is complete.
    let unfinished = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/calls-secret");
        let randomness = Randomness::from_seed(1);
        let secret = kept(&path, &randomness).unwrap();
        assert_eq!(secret.len(), SECRET_LENGTH);
        assert_eq!(kept(&path, &randomness).unwrap(), secret);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(kept(&path, &randomness).is_err());
    }
}
