-- What is known of each row of metric_aggregates: the exact sum, the distribution, the last sample.
--
-- id     as in metric_aggregates
-- state  a version, and the merged state of all its samples
CREATE TABLE _rollup_states (
    id TEXT PRIMARY KEY NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
