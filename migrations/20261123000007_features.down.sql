DROP TABLE _feature_users;
DROP TABLE _feature_states;
DELETE FROM feature_usage;
DELETE FROM _groups WHERE name = 'features';
