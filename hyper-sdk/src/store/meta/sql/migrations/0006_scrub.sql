-- When the bytes of a blob were found damaged, where they are kept under a key that no push uses again. A push of the blob, under
-- another key, ends it.
ALTER TABLE blobs ADD COLUMN quarantined BIGINT;

-- Who reads all blobs, until when nobody else does, and how far this is. One row.
CREATE TABLE scrub (
    id         INTEGER PRIMARY KEY,
    holder     BIGINT  NOT NULL,
    held_until BIGINT  NOT NULL,
    -- The last blob of the round that was read; none between rounds.
    place      TEXT,
    -- When the last round ended.
    ended_at   BIGINT
);
