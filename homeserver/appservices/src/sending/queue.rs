//! What waits for each service, in the store.

use std::collections::{BTreeMap, BTreeSet};

use entente_storage::{Store, Transaction};

use crate::{
    AppServiceError, Registration,
    rows::{self, WaitingRow},
};

/// What is to be put down for services.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    rows: BTreeMap<String, Vec<WaitingRow>>,
    mailboxes: BTreeMap<String, BTreeSet<(String, String)>>,
}

impl Waiting {
    pub(super) fn add(&mut self, service: &Registration, row: WaitingRow) {
        self.rows.entry(service.id.clone()).or_default().push(row);
    }

    pub(super) fn add_mailbox(&mut self, service: &Registration, localpart: &str, device_id: &str) {
        let mailbox = (localpart.to_owned(), device_id.to_owned());
        self.mailboxes.entry(service.id.clone()).or_default().insert(mailbox);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.mailboxes.is_empty()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        let only_mail = self.mailboxes.keys().filter(|service| !self.rows.contains_key(*service));
        self.rows.keys().chain(only_mail).map(String::as_str)
    }

    /// A transaction that puts it behind what waits already.
    pub(super) async fn put(&self, store: &Store) -> Result<Transaction, AppServiceError> {
        let snapshot = store.snapshot().await?;
        let mut transaction = Transaction::new();
        for service in self.services() {
            let old = snapshot.get(&rows::QUEUES, service).await?;
            let mut next = old.unwrap_or(1);
            for row in self.rows.get(service).into_iter().flatten() {
                transaction.put(&rows::WAITING, (service, next), row);
                next += 1;
            }
            for (localpart, device_id) in self.mailboxes.get(service).into_iter().flatten() {
                let key = (service, localpart.as_str(), device_id.as_str());
                transaction.put(&rows::MAILBOXES, key, &next);
                next += 1;
            }
            transaction.check_unchanged(&rows::QUEUES, service, old.as_ref());
            transaction.put(&rows::QUEUES, service, &next);
        }
        Ok(transaction)
    }
}
