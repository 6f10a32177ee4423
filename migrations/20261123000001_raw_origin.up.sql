-- Where each raw row comes from. With these columns, and _session_messages, every derived table can be rebuilt
-- without the stream.
--
-- epoch, stream_seq  the message's place; 0 for rows that came another way
-- recv_ms            when the server received it, milliseconds since the Unix epoch: what rules judge by
-- supplied           fields that the message left out: 1 id, 2 timestamp, 4 event_type, 8 metric_type
-- anonymous_id       who did it before they were known; the specification's table has no column for it
ALTER TABLE analytics_events ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE analytics_events ADD COLUMN stream_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE analytics_events ADD COLUMN recv_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE analytics_events ADD COLUMN supplied INTEGER NOT NULL DEFAULT 0;
ALTER TABLE analytics_events ADD COLUMN anonymous_id TEXT;

ALTER TABLE metrics ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE metrics ADD COLUMN stream_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE metrics ADD COLUMN recv_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE metrics ADD COLUMN supplied INTEGER NOT NULL DEFAULT 0;
