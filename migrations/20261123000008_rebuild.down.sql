DROP INDEX _session_messages_seq;
DROP INDEX _metrics_seq;
DROP INDEX _analytics_events_seq;
ALTER TABLE _groups DROP COLUMN build;
