UPDATE _groups SET rebuild = 'refresh ' || substr(rebuild, 9) WHERE substr(rebuild, 1, 8) = 'current ';
ALTER TABLE _groups RENAME COLUMN rebuild TO build;
