-- Values of the service's author, as JSON.
CREATE TABLE pairs (
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (space, key)
) WITHOUT ROWID;

-- Names of another network and what they are in Matrix.
CREATE TABLE links (
    kind TEXT NOT NULL,
    remote TEXT NOT NULL,
    matrix TEXT NOT NULL,
    PRIMARY KEY (kind, remote),
    UNIQUE (kind, matrix)
) WITHOUT ROWID;

-- Transactions and events that were handled, and how often an event failed; the number orders them by age.
CREATE TABLE handled (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    failures INTEGER NOT NULL,
    is_done INTEGER NOT NULL
);

-- Encrypted events whose key has not come yet.
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    since INTEGER NOT NULL,
    event TEXT NOT NULL
);
CREATE INDEX waiting_by_session ON waiting (session_id);

-- The service's own users.
CREATE TABLE users (
    user_id TEXT PRIMARY KEY,
    device_id TEXT,
    display_name TEXT,
    avatar_url TEXT
) WITHOUT ROWID;
