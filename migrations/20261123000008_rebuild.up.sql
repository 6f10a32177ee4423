-- A group whose rules have changed is built aside, in the file <database>.rebuild, and put in by one transaction. Until
-- then its rows stay as they are.
--
-- build  which build that is; NULL where the group is up to date. fingerprint is what it is built by.
ALTER TABLE _groups ADD COLUMN build TEXT;

-- What is built reads the raw rows in the order of the stream.
CREATE INDEX _analytics_events_seq ON analytics_events(epoch, stream_seq);
CREATE INDEX _metrics_seq ON metrics(epoch, stream_seq);
CREATE INDEX _session_messages_seq ON _session_messages(epoch, stream_seq);
