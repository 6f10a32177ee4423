DROP INDEX _session_messages_seq;
DROP INDEX _metrics_seq;
DROP INDEX _analytics_events_seq;
-- What was not built yet has to begin anew: nothing tells that it has not been.
DELETE FROM _groups WHERE build IS NOT NULL;
ALTER TABLE _groups DROP COLUMN build;
