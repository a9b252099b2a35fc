//! The SQL that is more than a word long.

/// The tables. `entente_rows` holds everything; `entente_marks` the newest group commit of each session, by which an unknown
/// outcome is settled. A page of it is left half empty, so that a mark is moved on without a change of the index: that would
/// look to SERIALIZABLE as if writers depended on one another.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS entente_rows (
        space int4 NOT NULL,
        key bytea NOT NULL,
        value bytea NOT NULL,
        PRIMARY KEY (space, key)
    );
    CREATE TABLE IF NOT EXISTS entente_marks (
        session uuid NOT NULL PRIMARY KEY,
        number int8 NOT NULL,
        marked_at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50);
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
    SET lock_timeout = 0;
    SET tcp_keepalives_idle = 30;
    SET tcp_keepalives_interval = 10;
    SET tcp_keepalives_count = 3;
";

/// Further settings of a session that writes. Its transactions wait for this process a few milliseconds at the most: one that
/// waits for longer has lost its client, and would keep others from its rows.
pub(super) const WRITER_SESSION: &str = "
    SET idle_in_transaction_session_timeout = '30s';
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

/// Marks a group as committed, in its own transaction: session, number. Reads nothing that SERIALIZABLE would take note of.
pub(super) const MARK_GROUP: &str = "
    INSERT INTO entente_marks (session, number) VALUES ($1::text::uuid, $2)
    ON CONFLICT (session) DO UPDATE SET number = excluded.number, marked_at = excluded.marked_at";

/// Settles whether a group was committed: session, number. If its transaction is still open, this waits for its end. No row
/// is changed if the mark is there; otherwise there is one now that the group's transaction does not know, so that it can
/// never be committed later.
pub(super) const SETTLE_GROUP: &str = "
    INSERT INTO entente_marks AS m (session, number) VALUES ($1::text::uuid, $2)
    ON CONFLICT (session) DO UPDATE SET number = excluded.number, marked_at = excluded.marked_at
    WHERE m.number < excluded.number";

/// The mark of a session that has nothing left to settle. A durable change: what was committed before it is on disk after it.
pub(super) const FORGET_MARK: &str = "DELETE FROM entente_marks WHERE session = $1::text::uuid";

/// Marks that sessions of the past left behind.
pub(super) const FORGET_MARKS: &str = "DELETE FROM entente_marks WHERE marked_at < now() - interval '7 days'";

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
