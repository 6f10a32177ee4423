-- Raw session messages, whole: what analytics_sessions is derived from, beside the events.
CREATE TABLE _session_messages (
    id TEXT PRIMARY KEY NOT NULL,
    session_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('start', 'heartbeat', 'end')),
    timestamp TEXT NOT NULL,
    user_id TEXT,
    anonymous_id TEXT,
    device_type TEXT,
    browser TEXT,
    os TEXT,
    country TEXT,
    city TEXT,
    referrer TEXT,
    landing_page TEXT,
    exit_page TEXT,
    epoch INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    recv_ms INTEGER NOT NULL,
    supplied INTEGER NOT NULL
);

-- How far each stream was read: one row for each epoch; the row with the greatest epoch of a stream is where it stands.
-- An epoch is one life of a stream: recreated or rolled back, it begins a new one, and sequences start over. Epochs are
-- numbered through the whole database, so (epoch, stream_seq) names a message.
--
-- stream_created_ns  the stream's created time, its only identity
-- first_seq          where reading began
-- last_seq           the last message that is stored, a duplicate, rejected, or known to be gone; it moves in the
--                    transaction that does so
-- last_recv_ns       when the server received that message; 0 where it was not read
-- stored, duplicates how many messages ended so, for the account: first_seq..last_seq = stored + duplicates + ledger
--                    + gaps
CREATE TABLE _positions (
    epoch INTEGER PRIMARY KEY NOT NULL,
    stream TEXT NOT NULL,
    stream_created_ns INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_recv_ns INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0
);

-- The ledger of rejections: every message that was not accepted, whole, with its reason. It is also the outbox of the
-- stream of dead letters: a row is published once it is committed, and then marked.
CREATE TABLE _rejections (
    epoch INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('events', 'metrics', 'sessions', 'unknown')),
    reason TEXT NOT NULL,
    field TEXT,
    error TEXT NOT NULL,
    subject TEXT NOT NULL,
    recv_ms INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'applied', 'duplicate', 'dropped')),
    published INTEGER NOT NULL DEFAULT 0,
    payload BLOB NOT NULL,
    PRIMARY KEY (epoch, stream_seq)
);
CREATE INDEX _rejections_outbox ON _rejections(epoch, stream_seq) WHERE published = 0;
CREATE INDEX _rejections_open ON _rejections(reason) WHERE state = 'open';

-- Messages that the stream no longer held when they were to be read.
-- found_at is the wall clock: when this was noticed, for people.
CREATE TABLE _gaps (
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('deleted', 'expired_or_purged')),
    found_at TEXT NOT NULL,
    PRIMARY KEY (epoch, first_seq)
);
