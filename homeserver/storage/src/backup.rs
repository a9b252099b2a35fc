//! Online backups that any engine can be restored from.
