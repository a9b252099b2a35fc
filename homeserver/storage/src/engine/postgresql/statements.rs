//! The SQL that is more than a word long.

/// The tables. `entente_rows` holds everything; `entente_groups` the newest group commit of each session, by which an
/// unknown outcome is settled.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS entente_rows (
        space int4 NOT NULL,
        key bytea NOT NULL,
        value bytea NOT NULL,
        PRIMARY KEY (space, key)
    );
    CREATE TABLE IF NOT EXISTS entente_groups (
        session uuid NOT NULL,
        number int8 NOT NULL,
        committed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (session, number)
    );
";

/// Settings of every session. Rows are found by their keys, always: a plan that reads the whole table would also have
/// SERIALIZABLE believe that the whole table was depended on.
pub(super) const SESSION: &str = "
    SET application_name = 'entente';
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_bitmapscan = off;
    SET jit = off;
    SET plan_cache_mode = force_generic_plan;
    SET idle_in_transaction_session_timeout = 0;
    SET statement_timeout = 0;
";

pub(super) const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

pub(super) const BEGIN_GROUP: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE";

/// The values under many keys, in their order: `int4[]`, `bytea[]`.
pub(super) const GET_MANY: &str = "
    SELECT r.value
    FROM unnest($1::int4[], $2::bytea[]) WITH ORDINALITY AS k (space, key, ordinal)
    LEFT JOIN entente_rows r ON r.space = k.space AND r.key = k.key
    ORDER BY k.ordinal";

/// `int4[]`, `bytea[]`, `bytea[]`.
pub(super) const PUT_MANY: &str = "
    INSERT INTO entente_rows (space, key, value)
    SELECT * FROM unnest($1::int4[], $2::bytea[], $3::bytea[])
    ON CONFLICT (space, key) DO UPDATE SET value = excluded.value";

/// `int4[]`, `bytea[]`.
pub(super) const DELETE_MANY: &str = "
    DELETE FROM entente_rows r
    USING unnest($1::int4[], $2::bytea[]) AS k (space, key)
    WHERE r.space = k.space AND r.key = k.key";

/// Marks a group as committed, in its own transaction: session, number.
pub(super) const MARK_GROUP: &str =
    "INSERT INTO entente_groups (session, number) VALUES ($1::text::uuid, $2)";

/// The mark of the group before says nothing any more.
pub(super) const UNMARK_GROUP: &str =
    "DELETE FROM entente_groups WHERE session = $1::text::uuid AND number = $2";

/// Settles whether a group was committed. If its transaction is still open, this waits for its end. If there was no mark,
/// there is one now, so that the transaction can never be committed later.
pub(super) const SETTLE_GROUP: &str =
    "INSERT INTO entente_groups (session, number) VALUES ($1::text::uuid, $2) ON CONFLICT DO NOTHING";

/// Marks that sessions of the past left behind.
pub(super) const FORGET_GROUPS: &str =
    "DELETE FROM entente_groups WHERE committed_at < now() - interval '7 days'";

/// Rows of a range in either direction: keyspace, lower end (included), most rows, and, with `bounded`, the upper end
/// (excluded).
pub(super) fn scan(bounded: bool, reverse: bool) -> &'static str {
    match (bounded, reverse) {
        (false, false) => {
            "SELECT key, value FROM entente_rows WHERE space = $1 AND key >= $2 ORDER BY key LIMIT $3"
        }
        (false, true) => {
            "SELECT key, value FROM entente_rows WHERE space = $1 AND key >= $2 ORDER BY key DESC LIMIT $3"
        }
        (true, false) => {
            "SELECT key, value FROM entente_rows WHERE space = $1 AND key >= $2 AND key < $4 ORDER BY key LIMIT $3"
        }
        (true, true) => {
            "SELECT key, value FROM entente_rows WHERE space = $1 AND key >= $2 AND key < $4 ORDER BY key DESC LIMIT $3"
        }
    }
}

/// The newest sequence number of each writer.
pub(super) const HEADS: &str = "SELECT key, value FROM entente_rows WHERE space = $1";
