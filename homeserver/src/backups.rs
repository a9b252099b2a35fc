//! Backups: written by the process that has the store open, read by one that has not.

use std::path::Path;

use entente_config::Config;
use entente_storage::{
    Store,
    backup::{self, BackupReport},
};

use crate::{catalogue, store};

/// Backs up a store that is open. Answers a sentence for the operator.
pub(crate) async fn write(store: &Store, file: &Path) -> Result<String, String> {
    if file.exists() {
        return Err(format!("{} exists already", file.display()));
    }
    let report =
        backup::write(store, file).await.map_err(|error| format!("no backup was written: {error}"))?;
    tracing::info!(file = %file.display(), rows = report.rows, bytes = report.file_bytes, "backup written");
    Ok(format!("{} holds {}", file.display(), describe(&report)))
}

/// Fills an empty store from a backup.
pub(crate) async fn restore(config: &Config, file: &Path) -> Result<String, String> {
    let engine = store::open_engine(config).await?;
    let report = backup::restore(engine, &catalogue::schema(), file)
        .await
        .map_err(|error| format!("{} was not restored: {error}", file.display()))?;
    Ok(format!("restored {}", describe(&report)))
}

/// Reads a backup to its end.
pub(crate) async fn verify(file: &Path) -> Result<String, String> {
    let report = backup::verify(file)
        .await
        .map_err(|error| format!("{} is no good backup: {error}", file.display()))?;
    Ok(format!("{} is whole: {}", file.display(), describe(&report)))
}

fn describe(report: &BackupReport) -> String {
    format!(
        "{} rows, {} bytes of data, schema {}, log position {}, digest {}",
        report.rows, report.data_bytes, report.schema, report.position, report.digest
    )
}
