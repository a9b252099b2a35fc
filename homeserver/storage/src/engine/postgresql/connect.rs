use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::poll_fn;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, config::SslMode, error::Severity,
    types::Type,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Options, statements};
use crate::{Keyspace, LogPosition, Position, StorageError, WriterId, log::HEADS};

/// The oldest server that is known to work.
const OLDEST_SERVER: i32 = 140_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unanswered packets for this long mean that the connection is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Guards the making of tables, and the ids of writers: the first number of two-part advisory locks, "Ente" in ASCII.
pub(super) const LOCK_CLASS: i32 = 0x456e_7465;
/// The second number of the lock for making tables; writers have theirs from 0 on.
const TABLES_LOCK: i32 = -1;

/// Opens connections to one database.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    tls: Tls,
}

/// How connections are encrypted.
#[derive(Clone)]
pub(super) enum Tls {
    /// Not at all.
    Off(NoTls),
    /// With a certificate that leads to a known root.
    Verified(MakeRustlsConnect),
}

impl Connector {
    pub(super) fn new(options: &Options) -> Result<Self, StorageError> {
        // The error's own text may quote the URL, password included; its source does not.
        let mut config: Config =
            spelt_for_the_client(&options.url).parse().map_err(|error: tokio_postgres::Error| {
                let reason = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(": {source}"));
                StorageError::Refused(format!("the database's URL cannot be read{reason}"))
            })?;
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(LOST_AFTER).tcp_user_timeout(LOST_AFTER);
        let tls = if config.get_ssl_mode() == SslMode::Require {
            Tls::Verified(MakeRustlsConnect::new(verifying(options.ca_file.as_deref())?))
        } else {
            Tls::Off(NoTls)
        };
        Ok(Self { config, tls })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// A connection with the settings that all have, driven by a task of its own; what the server notifies of goes to
    /// `notifications`.
    pub(super) async fn connect(
        &self,
        notifications: Option<mpsc::UnboundedSender<Notification>>,
    ) -> Result<Client, tokio_postgres::Error> {
        let client = match &self.tls {
            Tls::Off(tls) => {
                let (client, connection) = self.config.connect(*tls).await?;
                tokio::spawn(drive(connection, notifications));
                client
            }
            Tls::Verified(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                tokio::spawn(drive(connection, notifications));
                client
            }
        };
        client.batch_execute(statements::SESSION).await?;
        Ok(client)
    }

    /// Refuses servers that are too old, warns of those that lose data, and makes the tables.
    pub(super) async fn prepare_database(&self) -> Result<(), StorageError> {
        let mut client = self.connect(None).await.map_err(|error| unavailable(&error))?;
        let settings = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
                 current_setting('fsync')",
                &[],
            )
            .await
            .map_err(|error| unavailable(&error))?;
        let (number, version, fsync): (i32, String, String) =
            (settings.get(0), settings.get(1), settings.get(2));
        if number < OLDEST_SERVER {
            return Err(StorageError::Refused(format!(
                "the database is PostgreSQL {version}; at least version 14 is needed"
            )));
        }
        if fsync == "off" {
            tracing::warn!("the database runs with fsync = off and will lose data at a power cut");
        }
        let transaction = client.transaction().await.map_err(StorageError::engine)?;
        transaction
            .execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCK_CLASS, &TABLES_LOCK])
            .await
            .map_err(StorageError::engine)?;
        transaction.batch_execute(statements::TABLES).await.map_err(StorageError::engine)?;
        transaction.execute(statements::FORGET_MARKS, &[]).await.map_err(StorageError::engine)?;
        transaction.commit().await.map_err(StorageError::engine)
    }
}

/// The URL with `sslmode=verify-full` as the client library has it: its `require` is no weaker here, because certificates are
/// always verified.
fn spelt_for_the_client(url: &str) -> String {
    let ends = |character: char| matches!(character, '?' | '&') || character.is_whitespace();
    let spell = |part: &str| match part.strip_prefix("sslmode=verify-full") {
        Some(end) if end.chars().all(ends) => format!("sslmode=require{end}"),
        _ => part.to_owned(),
    };
    url.split_inclusive(ends).map(spell).collect()
}

fn verifying(ca_file: Option<&Path>) -> Result<ClientConfig, StorageError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(ca_file) = ca_file {
        let refused = |reason: String| StorageError::Refused(format!("{}: {reason}", ca_file.display()));
        let certificates =
            CertificateDer::pem_file_iter(ca_file).map_err(|error| refused(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| refused(error.to_string()))?;
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(StorageError::engine)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn drive<S, T>(
    mut connection: Connection<S, T>,
    notifications: Option<mpsc::UnboundedSender<Notification>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => {
                if let Some(notifications) = &notifications {
                    let _ = notifications.send(notification);
                }
            }
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(message = notice.message(), "the database says");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection to the database was lost");
                return;
            }
        }
    }
}

/// How far the log reaches, as a connection's open transaction sees it.
pub(super) async fn read_heads(client: &Client) -> Result<Position, StorageError> {
    let space = i32::from(HEADS.info().id.0);
    let rows = client
        .query_typed(statements::HEADS, &[(&space, Type::INT4)])
        .await
        .map_err(|error| failure(&error))?;
    let mut position = Position::start();
    for row in rows {
        let writer = Keyspace::<WriterId, u64>::decode_key(HEADS.info(), row.get(0))?;
        let sequence =
            Keyspace::<WriterId, u64>::decode_value(HEADS.info(), &row.get::<_, Vec<u8>>(1).into())?;
        position.include(LogPosition { writer, sequence });
    }
    Ok(position)
}

/// What a failed statement means: a database that is away, or one that answers with an error.
pub(super) fn failure(error: &tokio_postgres::Error) -> StorageError {
    // After a fatal error the server closes the connection: it shuts down, or waited for too long.
    let is_fatal = |severity| matches!(severity, Some(Severity::Fatal | Severity::Panic));
    match error.as_db_error() {
        Some(db) if !is_fatal(db.parsed_severity()) => {
            StorageError::engine(std::io::Error::other(format!("{} ({})", db.message(), db.code().code())))
        }
        _ => unavailable(error),
    }
}

/// A database that cannot be reached or does not let us in. Says why, and no password.
pub(super) fn unavailable(error: &tokio_postgres::Error) -> StorageError {
    let cause = match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    StorageError::Unavailable(format!("the database: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_verification_is_understood_wherever_it_stands() {
        let spelt = [
            ("postgresql://host/db?sslmode=verify-full", "postgresql://host/db?sslmode=require"),
            (
                "postgresql://host/db?sslmode=verify-full&user=u",
                "postgresql://host/db?sslmode=require&user=u",
            ),
            (
                "postgresql://host/db?user=u&sslmode=verify-full",
                "postgresql://host/db?user=u&sslmode=require",
            ),
            ("host=h sslmode=verify-full user=u", "host=h sslmode=require user=u"),
        ];
        for (url, expected) in spelt {
            assert_eq!(spelt_for_the_client(url), expected);
            assert_eq!(expected.parse::<Config>().expect("valid").get_ssl_mode(), SslMode::Require);
        }
        for untouched in ["postgresql://sslmode=verify-full:x@host/db", "host=h sslmode=verify-ca"] {
            assert_eq!(spelt_for_the_client(untouched), untouched);
        }
    }
}
