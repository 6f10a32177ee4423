-- What is known of each session: analytics_sessions shows it. A session's row there is open as long as no `end`
-- arrived and its last activity lies within limits.session_timeout of the watermark.
--
-- id             as in analytics_sessions
-- last_activity  the greatest timestamp of its messages: what closing looks for
-- state          a version, and the merged state of all its messages
CREATE TABLE _session_states (
    id TEXT PRIMARY KEY NOT NULL,
    last_activity TEXT NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX _session_states_activity ON _session_states(last_activity);

-- T, the watermark: the greatest min(timestamp, recv) over all stored messages. One row, none before the first message.
CREATE TABLE _watermark (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    t TEXT NOT NULL
);

-- Groups of derived tables, and the rules and configuration that they were made by. Where these have changed, the group
-- is made anew from the raw rows.
CREATE TABLE _groups (
    name TEXT PRIMARY KEY NOT NULL,
    fingerprint TEXT NOT NULL
);
