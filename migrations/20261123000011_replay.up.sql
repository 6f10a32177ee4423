-- What other commands ask of the worker that holds the database, and what came of it. A request is handled in the order
-- of its id, one at a time; whoever asked takes the row away.
--
-- id       a UUIDv7
-- request  JSON
-- outcome  JSON; so far, while the state is `wanted`
CREATE TABLE _control (
    id TEXT PRIMARY KEY NOT NULL,
    request TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'done', 'failed')),
    outcome TEXT
);

-- retry: the request that wants the message judged again; NULL where none does. judged: counts up with every transaction
-- that judged some again; rows that are applied later than messages after them are found by it.
ALTER TABLE _rejections ADD COLUMN retry TEXT;
ALTER TABLE _rejections ADD COLUMN judged INTEGER;
CREATE INDEX _rejections_retry ON _rejections(retry, epoch, stream_seq) WHERE retry IS NOT NULL;
CREATE INDEX _rejections_judged ON _rejections(judged) WHERE judged IS NOT NULL;
