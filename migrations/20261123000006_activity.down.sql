DROP TABLE _activity_sessions;
DROP TABLE _activity_names;
DROP TABLE _activity_states;
