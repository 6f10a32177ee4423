-- The user that an anonymous id was first linked to: that of the first event that carries both.
CREATE TABLE _links (
    anonymous_id TEXT PRIMARY KEY NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;

-- The hits of an actor in a funnel, in runs that follow each other, each with the machine after it. funnel: the first 8
-- bytes of its id. opened_ms, opened_by: the hit that opened the episode that goes on where the run begins; best_step:
-- how far that one gets within it.
CREATE TABLE _funnel_segments (
    funnel INTEGER NOT NULL,
    actor TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    first_step INTEGER NOT NULL,
    first_event_id TEXT NOT NULL,
    opened_ms INTEGER,
    opened_by TEXT,
    best_step INTEGER NOT NULL,
    segment BLOB NOT NULL,
    PRIMARY KEY (funnel, actor, first_ms, first_step, first_event_id)
) WITHOUT ROWID;
CREATE INDEX _funnel_segments_furthest
    ON _funnel_segments(funnel, actor, opened_by, best_step DESC, first_ms, first_step, first_event_id)
    WHERE opened_by IS NOT NULL;

-- All episodes of funnels that show one of each actor.
CREATE TABLE _funnel_episodes (
    funnel INTEGER NOT NULL,
    actor TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    opened_by TEXT NOT NULL,
    current_step INTEGER NOT NULL,
    PRIMARY KEY (funnel, actor, opened_ms, opened_by)
) WITHOUT ROWID;
CREATE INDEX _funnel_episodes_furthest ON _funnel_episodes(funnel, actor, current_step DESC, opened_ms, opened_by);
