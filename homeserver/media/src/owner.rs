//! Whose the object store is. A store of something else, or an empty one, would look as if nothing in it were named any more,
//! and be swept.

use entente_environment::Environment;
use entente_storage::{Store, Transaction};

use crate::{MediaError, objects::Objects, rows};

/// The engine of a database that forgets everything when the program ends.
const FORGETFUL: &str = "memory";

/// Makes sure that the object store is this database's, or makes it so if it is nobody's. Answers whether it is: a database in memory
/// owns nothing for long.
pub(crate) async fn claim(
    environment: &Environment,
    store: &Store,
    objects: &Objects,
) -> Result<bool, MediaError> {
    if store.engine_name() == FORGETFUL {
        return Ok(false);
    }
    // In this order: another node of the same database may be doing the same.
    let said = objects.owner().await?;
    let snapshot = store.snapshot().await?;
    let known = snapshot.get(&rows::OWNER, rows::OWNER_KEY).await?;
    let names_content = !snapshot.scan(&rows::CONTENT.scan(()).limit(1)).await?.rows.is_empty();
    match (known, said) {
        (Some(known), Some(said)) if known == said => return Ok(true),
        (Some(known), Some(said)) => {
            return Err(MediaError::ForeignStore(format!(
                "it belongs to another database: its object \"owner\" says {said}, and the media of this database are where it says {known}"
            )));
        }
        (None, Some(_)) => {
            return Err(MediaError::ForeignStore(String::from(
                "it belongs to another database, whose media this one would delete",
            )));
        }
        (Some(known), None) if names_content => {
            return Err(MediaError::ForeignStore(format!(
                "the media of this database are elsewhere: it has no object \"owner\" that says {known}; put one there if it is the right store"
            )));
        }
        (None, None) if !names_content && objects.has_content().await? => {
            return Err(MediaError::ForeignStore(String::from(
                "it has media of which this database knows nothing, and would delete them",
            )));
        }
        (Some(_) | None, None) => {}
    }
    let fresh = environment.randomness().alphanumeric(24);
    let (owner, _) = store
        .run(async |snapshot| {
            let mut transaction = Transaction::new();
            if let Some(known) = snapshot.get(&rows::OWNER, rows::OWNER_KEY).await? {
                return Ok::<_, MediaError>((transaction, known));
            }
            transaction.check_absent(&rows::OWNER, rows::OWNER_KEY);
            transaction.put(&rows::OWNER, rows::OWNER_KEY, &fresh);
            Ok((transaction, fresh.clone()))
        })
        .await?;
    objects.claim(&owner).await?;
    Ok(true)
}
