DROP TABLE _event_counts;
DROP TABLE _dashboard_outbox;
DROP TABLE _series_members;
DROP TABLE _series_states;
DELETE FROM dashboard_metrics;
DELETE FROM _groups WHERE name = 'event_counts' OR name LIKE 'series %';
