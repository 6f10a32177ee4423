DROP TABLE _funnel_episodes;
DROP TABLE _funnel_segments;
DROP TABLE _links;
DELETE FROM funnel_conversions;
DELETE FROM funnels;
DELETE FROM _groups WHERE name = 'links' OR name LIKE 'funnel %';
