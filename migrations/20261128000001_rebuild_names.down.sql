DROP TABLE IF EXISTS _shadow;
DROP TABLE IF EXISTS _shadow_passed;
UPDATE _control SET
    request = replace(request, '{"install":', '{"replace":'),
    outcome = replace(outcome, '"rebuild":"current ', '"build":"refresh ')
WHERE state = 'wanted';
CREATE TABLE _groups_before AS SELECT name, fingerprint, rebuild FROM _groups;
DROP TABLE _groups;
CREATE TABLE _groups (
    name TEXT PRIMARY KEY NOT NULL,
    fingerprint TEXT NOT NULL,
    build TEXT
);
INSERT INTO _groups (name, fingerprint, build)
    SELECT name, fingerprint,
        CASE WHEN substr(rebuild, 1, 8) = 'current ' THEN 'refresh ' || substr(rebuild, 9) ELSE rebuild END
    FROM _groups_before;
DROP TABLE _groups_before;
