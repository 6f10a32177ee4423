DROP TABLE _groups;
DROP TABLE _watermark;
DROP TABLE _session_states;
DELETE FROM analytics_sessions;
