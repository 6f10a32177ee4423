-- What is known of each row of feature_usage: counts, and the exact sum of durations.
CREATE TABLE _feature_states (
    feature_name TEXT NOT NULL,
    date TEXT NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (feature_name, date)
) WITHOUT ROWID;

-- Who used which feature on which day: unique users are counted when they come here.
CREATE TABLE _feature_users (
    feature_name TEXT NOT NULL,
    date TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (feature_name, date, user_id)
) WITHOUT ROWID;
