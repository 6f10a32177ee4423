DROP TABLE _rollup_states;
DELETE FROM metric_aggregates;
