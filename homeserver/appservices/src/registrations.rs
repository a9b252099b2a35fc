//! Where registrations come from: files that the settings name, and what was added on the command line or by an administrator.

use std::path::{Path, PathBuf};

use entente_accounts::{AccountError, Accounts};
use entente_storage::{Keyspace, Scan, Store, Transaction, codec::Key, value::Value};
use ruma::{OwnedServerName, UserId};

use crate::{
    AppServiceError, Registration, Registry,
    registration::MOST_BYTES,
    rows::{self, REGISTRATIONS},
};

/// Files of one directory.
const MOST_FILES: usize = 1_000;

/// The sources of registrations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registrations {
    store: Store,
    server_name: OwnedServerName,
    paths: Vec<PathBuf>,
}

impl Registrations {
    /// What is in the store, and in these files and directories. Of directories, the files ending in `.yaml` and `.yml`.
    pub fn new(store: Store, server_name: OwnedServerName, paths: Vec<PathBuf>) -> Self {
        Self { store, server_name, paths }
    }

    /// All of them, read anew. One mistake is the mistake of all: nothing is used that is half right.
    pub async fn read(&self) -> Result<Registry, AppServiceError> {
        Registry::new(self.read_all().await?)
    }

    async fn read_all(&self) -> Result<Vec<Registration>, AppServiceError> {
        let (paths, server_name) = (self.paths.clone(), self.server_name.clone());
        let read = tokio::task::spawn_blocking(move || read_files(&paths, &server_name)).await;
        let mut services = read.map_err(|error| AppServiceError::Internal(error.to_string()))??;
        for (id, text) in self.store.snapshot().await?.scan_all(REGISTRATIONS.scan(())).await? {
            services.push(Registration::parse(&text, &stored_name(&id), &self.server_name)?);
        }
        Ok(services)
    }

    /// Adds one, or replaces that with the same id, and makes the service's own user if it is missing. Answers the id. For the store of
    /// a server that does not run; a running one has [`AppServices::add`](crate::AppServices::add).
    pub async fn add(&self, text: &str, accounts: &Accounts) -> Result<String, AppServiceError> {
        let new = Registration::parse(text, "registration", &self.server_name)?;
        let id = new.id.clone();
        let stored = self.store.snapshot().await?.get(&REGISTRATIONS, id.as_str()).await?;
        let mut services = self.read_all().await?;
        if stored.is_some() {
            // The files come first: what is replaced is the one of the store.
            if let Some(last) = services.iter().rposition(|service| service.id == id) {
                services.remove(last);
            }
        }
        let sender = new.sender.clone();
        services.push(new);
        Registry::new(services)?;
        // First: a registration without its user would keep the server from starting.
        make_sender(accounts, &sender).await?;
        if stored.is_none() {
            // What a crash left of another that had this id.
            self.forget(&id).await?;
        }
        let mut transaction = Transaction::new();
        transaction.check_unchanged(&REGISTRATIONS, id.as_str(), stored.as_ref());
        transaction.put(&REGISTRATIONS, id.as_str(), &text.to_owned());
        self.store.commit(transaction).await?;
        Ok(id)
    }

    /// The ids of those that were added.
    pub async fn stored(&self) -> Result<Vec<String>, AppServiceError> {
        let rows = self.store.snapshot().await?.scan_all(REGISTRATIONS.scan(())).await?;
        Ok(rows.into_iter().map(|(id, _)| id).collect())
    }

    /// Removes one that was added. What waits for it is left, for [`Registrations::forget`].
    pub async fn remove(&self, id: &str) -> Result<(), AppServiceError> {
        if self.store.snapshot().await?.get(&REGISTRATIONS, id).await?.is_none() {
            let is_in_file = self.read().await?.by_id(id).is_some();
            let refused = if is_in_file { AppServiceError::InFile } else { AppServiceError::Unknown };
            return Err(refused(id.to_owned()));
        }
        let mut transaction = Transaction::new();
        transaction.delete(&REGISTRATIONS, id);
        self.store.commit(transaction).await?;
        Ok(())
    }

    /// Deletes everything that waits for a service that is gone. Done again, it does nothing.
    pub async fn forget(&self, id: &str) -> Result<(), AppServiceError> {
        self.delete_all(&rows::WAITING, rows::WAITING.scan((id,))).await?;
        self.delete_all(&rows::MAILBOXES, rows::MAILBOXES.scan((id,))).await?;
        self.delete_all(&rows::COPIED, rows::COPIED.scan((id,))).await?;
        let mut transaction = Transaction::new();
        transaction.delete(&rows::IN_FLIGHT, id);
        transaction.delete(&rows::QUEUES, id);
        self.store.commit(transaction).await?;
        Ok(())
    }

    async fn delete_all<K: Key, V: Value>(
        &self,
        keyspace: &Keyspace<K, V>,
        scan: Scan<K, V>,
    ) -> Result<(), AppServiceError> {
        let mut next = Some(scan);
        while let Some(scan) = next {
            let page = self.store.snapshot().await?.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, _) in &page.rows {
                transaction.delete(keyspace, key);
            }
            if !transaction.is_empty() {
                self.store.commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(())
    }
}

/// Makes a service's own user if it is missing.
pub(crate) async fn make_sender(accounts: &Accounts, sender: &UserId) -> Result<(), AppServiceError> {
    match accounts.create_service_user(sender.localpart(), None).await {
        Ok(_) | Err(AccountError::UsernameTaken) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn stored_name(id: &str) -> String {
    format!("the stored registration {id}")
}

/// Reads registrations from files, for `entente check-config` as well.
pub fn read_files(
    paths: &[PathBuf],
    server_name: &ruma::ServerName,
) -> Result<Vec<Registration>, AppServiceError> {
    let mut services = Vec::new();
    for path in paths {
        for file in files(path)? {
            let name = file.display().to_string();
            let unreadable =
                |error| AppServiceError::Registration(format!("{name}: cannot be read: {error}"));
            let length = std::fs::metadata(&file).map_err(unreadable)?.len();
            if usize::try_from(length).unwrap_or(usize::MAX) > MOST_BYTES {
                let message = format!("{name}: a registration has at most {MOST_BYTES} bytes");
                return Err(AppServiceError::Registration(message));
            }
            let text = std::fs::read_to_string(&file).map_err(unreadable)?;
            services.push(Registration::parse(&text, &name, server_name)?);
        }
    }
    Ok(services)
}

/// The files that a path means, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, AppServiceError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fault = |error: std::io::Error| {
        AppServiceError::Registration(format!("{}: cannot be read: {error}", path.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && file.is_file() {
            files.push(file);
        }
        if files.len() > MOST_FILES {
            let message = format!("{}: at most {MOST_FILES} registrations", path.display());
            return Err(AppServiceError::Registration(message));
        }
    }
    files.sort();
    Ok(files)
}
