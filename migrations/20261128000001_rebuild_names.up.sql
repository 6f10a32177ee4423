-- One word for one thing: a group of derived tables that is being rebuilt names its rebuild.
--
-- rebuild  which rebuild that is; NULL if the group is current. `current ...`: a command asked for it, and the group's
--          rows are updated meanwhile; otherwise they stay as they were until the rebuild is installed.
--
-- The table is made again, not altered: a column cannot be renamed if a view of somebody else names a table that is gone.
-- Triggers and indexes that somebody put on this internal table go with it.
CREATE TABLE _groups_before AS SELECT name, fingerprint, build FROM _groups;
DROP TABLE _groups;
CREATE TABLE _groups (
    name TEXT PRIMARY KEY NOT NULL,
    fingerprint TEXT NOT NULL,
    rebuild TEXT
);
INSERT INTO _groups (name, fingerprint, rebuild)
    SELECT name, fingerprint,
        CASE WHEN substr(build, 1, 8) = 'refresh ' THEN 'current ' || substr(build, 9) ELSE build END
    FROM _groups_before;
DROP TABLE _groups_before;

-- A command that waits for such a rebuild is answered under the new name.
UPDATE _control SET outcome = replace(outcome, '"build":"refresh ', '"rebuild":"current ') WHERE state = 'wanted';

-- A process of an earlier version left these if it died just after it had installed a rebuilt database.
DROP TABLE IF EXISTS _replay;
DROP TABLE IF EXISTS _replay_listed;
