-- A namespace is counted in pieces: each row says how far its count is. Everything is counted anew, by the servers, after this
-- migration, which takes no time. The tables name no others any more, as each row of them would be looked for there: a change
-- of links and manifests is what changes them.
DROP TABLE quota_blobs;
DROP TABLE quota_manifests;

CREATE TABLE counted_namespaces (
    -- Never used again: what is left of one that was counted anew belongs to nobody.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The name of a repository, which has everything below it too, or ** for all.
    namespace     TEXT    NOT NULL UNIQUE,
    bytes         BIGINT  NOT NULL,
    tags          BIGINT  NOT NULL,
    manifests     BIGINT  NOT NULL,
    -- When the count ended.
    counted_at    BIGINT,
    -- While it goes on: the last row that is counted, in the order of the repositories, of blobs (0), manifests (1) and tags (2)
    -- in each, and of the number, the digest or the name of the row.
    at_repository TEXT,
    at_kind       BIGINT,
    at_key        TEXT
);

INSERT INTO counted_namespaces (namespace, bytes, tags, manifests, at_repository, at_kind, at_key)
SELECT namespace, 0, 0, 0, '', 0, '' FROM quotas;

DROP TABLE quotas;
ALTER TABLE counted_namespaces RENAME TO quotas;

-- How many of the counted repositories of a namespace have a blob, while one does.
CREATE TABLE quota_blobs (
    blob_id  BIGINT NOT NULL,
    quota_id BIGINT NOT NULL,
    links    BIGINT NOT NULL,
    PRIMARY KEY (blob_id, quota_id)
);

-- How many of the counted repositories of a namespace have a manifest, while one does.
CREATE TABLE quota_manifests (
    digest   TEXT   NOT NULL,
    quota_id BIGINT NOT NULL,
    size     BIGINT NOT NULL,
    copies   BIGINT NOT NULL,
    PRIMARY KEY (digest, quota_id)
);
