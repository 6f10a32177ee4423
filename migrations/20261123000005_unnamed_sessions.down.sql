CREATE INDEX _session_states_activity ON _session_states(last_activity);
DROP TABLE _session_deadlines;
DROP TABLE _gap_sessions;
DELETE FROM _groups WHERE name = 'sessions';
