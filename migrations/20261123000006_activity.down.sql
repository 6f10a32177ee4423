DROP TABLE _activity_sessions;
DROP TABLE _activity_names;
DROP TABLE _activity_states;
DELETE FROM user_activity;
DELETE FROM _groups WHERE name = 'activity';
