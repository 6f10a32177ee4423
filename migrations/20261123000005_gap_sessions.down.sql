DROP TABLE _gap_sessions;
