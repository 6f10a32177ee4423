-- One word for one thing: a group of derived tables that is being rebuilt names its rebuild.
--
-- rebuild  which rebuild that is; NULL where the group is current. `current ...`: somebody asked for it, and the group's
--          rows are updated meanwhile; else they stay as they were until the rebuild is installed.
ALTER TABLE _groups RENAME COLUMN build TO rebuild;
UPDATE _groups SET rebuild = 'current ' || substr(rebuild, 9) WHERE substr(rebuild, 1, 8) = 'refresh ';

-- What a process of an earlier version left that died just after it had installed a rebuilt database.
DROP TABLE IF EXISTS _replay;
DROP TABLE IF EXISTS _replay_listed;
