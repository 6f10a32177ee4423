-- What is known of a series in a period. series: the first 8 bytes of an id that comes of its name; period_type: 0 hours,
-- 1 days, 2 weeks, 3 months; period_start in milliseconds. No row where nothing is known.
CREATE TABLE _series_states (
    series INTEGER NOT NULL,
    period_type INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (series, period_type, period_start)
) WITHOUT ROWID;

-- The distinct members that a series counts in a period.
CREATE TABLE _series_members (
    series INTEGER NOT NULL,
    period_type INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    member TEXT NOT NULL,
    PRIMARY KEY (series, period_type, period_start, member)
) WITHOUT ROWID;

-- The last state of every number of every widget, to be published; those without a value too. as_of: the sequence up to
-- which it is exact; change: counts up with every change of any; is_gone: the configuration does not have it any more.
CREATE TABLE _dashboard_outbox (
    widget_id TEXT NOT NULL,
    metric_key TEXT NOT NULL,
    value REAL,
    previous_value REAL,
    change_percent REAL,
    updated_at TEXT NOT NULL,
    stream TEXT NOT NULL,
    as_of INTEGER NOT NULL,
    change INTEGER NOT NULL,
    is_gone INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (widget_id, metric_key)
) WITHOUT ROWID;
CREATE INDEX _dashboard_outbox_change ON _dashboard_outbox(change);

-- Events of a name on a UTC day.
CREATE TABLE _event_counts (
    date TEXT NOT NULL,
    event_name TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (date, event_name)
) WITHOUT ROWID;
