DROP TABLE _feature_users;
DROP TABLE _feature_states;
