ALTER TABLE metrics DROP COLUMN supplied;
ALTER TABLE metrics DROP COLUMN recv_ms;
ALTER TABLE metrics DROP COLUMN stream_seq;
ALTER TABLE metrics DROP COLUMN epoch;

ALTER TABLE analytics_events DROP COLUMN anonymous_id;
ALTER TABLE analytics_events DROP COLUMN supplied;
ALTER TABLE analytics_events DROP COLUMN recv_ms;
ALTER TABLE analytics_events DROP COLUMN stream_seq;
ALTER TABLE analytics_events DROP COLUMN epoch;
