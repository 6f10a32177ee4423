-- What is known of each row of user_activity.
--
-- state  a version, and counts and spans of time; and how many events of which name, up to 100 names
CREATE TABLE _activity_states (
    user_id TEXT NOT NULL,
    date TEXT NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (user_id, date)
) WITHOUT ROWID;

-- How many events of which name, of users and days with more names than a state holds. The index finds the greatest.
CREATE TABLE _activity_names (
    user_id TEXT NOT NULL,
    date TEXT NOT NULL,
    name TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (user_id, date, name)
) WITHOUT ROWID;
CREATE INDEX _activity_names_greatest ON _activity_names(user_id, date, n DESC, name);

-- When which sessions of a user began: the first and the last of a day can be told when one moves away.
CREATE TABLE _activity_sessions (
    user_id TEXT NOT NULL,
    started_at TEXT NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (user_id, started_at, session_id)
) WITHOUT ROWID;
