DROP TABLE _rollup_states;
DELETE FROM metric_aggregates;
DELETE FROM _groups WHERE name = 'rollups';
