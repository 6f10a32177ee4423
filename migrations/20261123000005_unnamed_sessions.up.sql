-- Sessions that nobody named, by whose they are, in the order of time. They lie apart by more than limits.session_timeout.
--
-- actor       user|<user_id> or anonymous|<anonymous_id>
-- started_at  as in analytics_sessions
-- id          as in analytics_sessions and _session_states
CREATE TABLE _gap_sessions (
    actor TEXT NOT NULL,
    started_at TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (actor, started_at)
) WITHOUT ROWID;

-- When to look whether T has closed a session: each that is open has a row, at its last activity of some time ago. Where
-- there was more since, the row moves there; so a session that goes on costs nothing here.
CREATE TABLE _session_deadlines (
    look_at TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (look_at, id)
) WITHOUT ROWID;
DROP INDEX _session_states_activity;
