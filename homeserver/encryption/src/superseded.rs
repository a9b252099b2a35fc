use std::collections::BTreeMap;

use entente_storage::{LogPosition, Position, Transaction};

use crate::{Encryption, EncryptionError, rows};

/// Users of whom it is remembered at once which change is their newest.
const MOST_USERS: usize = 100_000;

impl Encryption {
    /// Deletes the changes of device lists behind which there is another one of the same user: whoever asks who changed their devices
    /// behind a position is told of that one in any case. So no token is too old to be asked with, and of each user there is one row,
    /// or one of each node that wrote some. Answers how many were deleted.
    pub(crate) async fn delete_superseded(&self) -> Result<usize, EncryptionError> {
        let lists = self.delete_superseded_lists(MOST_USERS).await?;
        Ok(lists + self.delete_superseded_signatures().await?)
    }

    async fn delete_superseded_lists(&self, most_users: usize) -> Result<usize, EncryptionError> {
        let mut deleted = 0;
        // So many users at a time, in the order of their ids.
        let mut done: Option<String> = None;
        loop {
            let snapshot = self.store.snapshot().await?;
            let mut newest: BTreeMap<String, Position> = BTreeMap::new();
            let mut is_complete = true;
            let mut next = Some(rows::DEVICE_LIST_CHANGES.scan(()).reverse());
            while let Some(scan) = next {
                let page = snapshot.scan(&scan).await?;
                let mut transaction = Transaction::relaxed();
                for ((position, user_id), ()) in page.rows {
                    if done.as_ref().is_some_and(|done| user_id <= *done) {
                        continue;
                    }
                    if is_superseded(&mut newest, &user_id, position) {
                        transaction.delete(&rows::DEVICE_LIST_CHANGES, (position, user_id.as_str()));
                        deleted += 1;
                    }
                    if newest.len() > most_users {
                        newest.pop_last();
                        is_complete = false;
                    }
                }
                if !transaction.is_empty() {
                    self.store.commit(transaction).await?;
                }
                next = page.next.map(|at| scan.resume(at));
            }
            if is_complete {
                return Ok(deleted);
            }
            done = newest.pop_last().map(|(user_id, _)| user_id);
        }
    }

    /// The same for the keys of others that users signed.
    async fn delete_superseded_signatures(&self) -> Result<usize, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let mut deleted = 0;
        let mut of_signer = String::new();
        let mut newest = BTreeMap::new();
        let mut next = Some(rows::SIGNED_OTHERS.scan(()).reverse());
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for ((signer, position, owner), ()) in page.rows {
                if signer != of_signer {
                    newest.clear();
                    of_signer.clone_from(&signer);
                }
                if is_superseded(&mut newest, &owner, position) {
                    let key = (signer.as_str(), position, owner.as_str());
                    transaction.delete(&rows::SIGNED_OTHERS, key);
                    deleted += 1;
                }
            }
            if !transaction.is_empty() {
                self.store.commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(deleted)
    }
}

/// Whether a change of a user lies before one that was looked at earlier. Changes of different nodes are not in an order, and none of
/// them stands for another.
fn is_superseded(newest: &mut BTreeMap<String, Position>, user_id: &str, position: LogPosition) -> bool {
    if let Some(known) = newest.get_mut(user_id) {
        let is_before = known.includes(position);
        known.include(position);
        return is_before;
    }
    let mut known = Position::start();
    known.include(position);
    newest.insert(user_id.to_owned(), known);
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use entente_storage::{Catalogue, Schema, Store, engine::memory::Disk};
    use ruma::{OwnedUserId, UserId};

    use super::*;
    use crate::KEYSPACES;

    async fn home() -> Encryption {
        let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
        Encryption::new(Store::open(Disk::new().open().unwrap(), schema).await.unwrap())
    }

    fn user(number: usize) -> OwnedUserId {
        UserId::parse(format!("@user{number:02}:example.org")).unwrap()
    }

    /// What each of these tokens is answered now.
    async fn answers(encryption: &Encryption, tokens: &[Position]) -> Vec<BTreeSet<OwnedUserId>> {
        let snapshot = encryption.store.snapshot().await.unwrap();
        let to = snapshot.position().await.unwrap();
        let mut answers = Vec::new();
        for token in tokens {
            answers.push(encryption.device_list_changes(&snapshot, token, &to).await.unwrap());
        }
        answers
    }

    async fn rows(encryption: &Encryption) -> usize {
        let snapshot = encryption.store.snapshot().await.unwrap();
        snapshot.scan_all(rows::DEVICE_LIST_CHANGES.scan(())).await.unwrap().len()
    }

    #[tokio::test]
    async fn whatever_is_deleted_every_token_is_answered_as_before() {
        for most_users in [1, 2, 7, MOST_USERS] {
            let encryption = home().await;
            let mut tokens = vec![Position::start()];
            // Users who change often, seldom, and once; all of them several times over.
            for step in 0..120_usize {
                let number = match step % 4 {
                    0 => 0,
                    1 => step % 5,
                    2 => step % 23,
                    _ => step / 2 % 11,
                };
                encryption.note_devices_changed(&user(number)).await.unwrap();
                let snapshot = encryption.store.snapshot().await.unwrap();
                tokens.push(snapshot.position().await.unwrap());
            }
            let before = answers(&encryption, &tokens).await;
            assert_eq!(before.last().unwrap().len(), 0);
            let (had, users) = (rows(&encryption).await, before[0].len());
            assert_eq!(encryption.delete_superseded_lists(most_users).await.unwrap(), had - users);
            assert_eq!(rows(&encryption).await, users, "one for each user");
            assert_eq!(answers(&encryption, &tokens).await, before, "{most_users} at a time");
            assert_eq!(encryption.delete_superseded_lists(most_users).await.unwrap(), 0);
            // And what comes then comes too.
            encryption.note_devices_changed(&user(3)).await.unwrap();
            assert_eq!(answers(&encryption, &tokens).await.last().unwrap(), &BTreeSet::from([user(3)]));
        }
    }

    #[tokio::test]
    async fn signatures_are_told_of_as_before() {
        let encryption = home().await;
        let signers = [user(1), user(2)];
        let mut tokens = vec![Position::start()];
        for step in 0..30 {
            let (signer, owner) = (&signers[step % 2], user(step % 7));
            let mut transaction = Transaction::new();
            let key = (signer.localpart(), LogPosition::AT_COMMIT, owner.as_str());
            transaction.put(&rows::SIGNED_OTHERS, key, &());
            crate::Change::SignedOthers { signer: signer.localpart().to_owned() }.log_in(&mut transaction);
            encryption.store.commit(transaction).await.unwrap();
            tokens.push(encryption.store.snapshot().await.unwrap().position().await.unwrap());
        }
        let told = async || {
            let snapshot = encryption.store.snapshot().await.unwrap();
            let to = snapshot.position().await.unwrap();
            let mut told = Vec::new();
            for token in &tokens {
                for signer in &signers {
                    told.push(encryption.signed_others(&snapshot, signer, token, &to).await.unwrap());
                }
            }
            told
        };
        let before = told().await;
        assert_eq!(encryption.delete_superseded().await.unwrap(), 30 - 14);
        assert_eq!(told().await, before);
    }

    #[test]
    fn changes_of_different_nodes_do_not_stand_for_each_other() {
        let position = |text: &str| -> LogPosition {
            let position: Position = text.parse().unwrap();
            Position::start().ranges_to(&position).map(|(_, last)| last).next().unwrap()
        };
        let mut newest = BTreeMap::new();
        for (at, expected) in
            [("w1s9", false), ("w1s4", true), ("s20", false), ("s3", true), ("w2s1", false), ("w1s2", true)]
        {
            assert_eq!(is_superseded(&mut newest, "@a:b", position(at)), expected, "{at}");
        }
    }
}
