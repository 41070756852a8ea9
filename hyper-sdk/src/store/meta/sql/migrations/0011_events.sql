-- Events, which each change records in its own transaction.

-- The log. One row. A store that is filled from a backup gets another name.
CREATE TABLE event_log (
    id     INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL,
    -- The number of the newest event, which is given with the right to write.
    last   BIGINT  NOT NULL,
    -- The number of the newest event that was removed.
    pruned BIGINT  NOT NULL
);
INSERT INTO event_log (id, name, last, pruned) VALUES (1, lower(hex(randomblob(8))), 0, 0);

-- The events from `pruned` + 1 to `last`, without a gap. The body is JSON.
CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY,
    created_at BIGINT  NOT NULL,
    repository TEXT    NOT NULL,
    tag        TEXT,
    body       TEXT    NOT NULL
);
CREATE INDEX events_of_tags ON events (repository, tag, sequence) WHERE tag IS NOT NULL;

-- Who reads events one after the other: how far it is, and which process has it.
CREATE TABLE event_consumers (
    name       TEXT   NOT NULL PRIMARY KEY,
    log        TEXT   NOT NULL,
    place      BIGINT NOT NULL,
    taken      BIGINT NOT NULL,
    skipped    BIGINT NOT NULL,
    holder     BIGINT NOT NULL,
    held_until BIGINT NOT NULL,
    failure    TEXT,
    changed_at BIGINT NOT NULL
);
