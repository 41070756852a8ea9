-- What was deleted within a window, and can be undeleted until it ends.

-- The name is that of a tag that was deleted or that names another manifest now, or the digest of a manifest that was deleted. The
-- manifest is there or kept as long as the row is.
CREATE TABLE deletions (
    -- The order of the losses: one that is lost again has a new number, and none is used twice.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id BIGINT NOT NULL,
    name          TEXT   NOT NULL,
    digest        TEXT   NOT NULL,
    deleted_at    BIGINT NOT NULL,
    kept_until    BIGINT NOT NULL,
    UNIQUE (repository_id, name, digest)
);
CREATE INDEX deletions_of_digest ON deletions (repository_id, digest);
CREATE INDEX deletions_of_repository ON deletions (repository_id, id);
CREATE INDEX deletions_of_name ON deletions (repository_id, name, id);
CREATE INDEX deletions_of_tags ON deletions (repository_id, id) WHERE name <> digest;
CREATE INDEX deletions_by_end ON deletions (kept_until);

-- Manifests that were deleted, with what they reference, which a collector keeps as long. They count for quotas as if they were
-- there.
CREATE TABLE deleted_manifests (
    id            INTEGER PRIMARY KEY,
    repository_id BIGINT NOT NULL,
    digest        TEXT   NOT NULL,
    media_type    TEXT   NOT NULL,
    size          BIGINT NOT NULL,
    kept_until    BIGINT NOT NULL,
    body          BLOB   NOT NULL,
    UNIQUE (repository_id, digest)
);
CREATE INDEX deleted_manifests_by_end ON deleted_manifests (kept_until);

CREATE TABLE deleted_refs (
    manifest_id BIGINT   NOT NULL REFERENCES deleted_manifests (id) ON DELETE CASCADE,
    kind        SMALLINT NOT NULL,
    digest      TEXT     NOT NULL,
    PRIMARY KEY (manifest_id, kind, digest)
);
CREATE INDEX deleted_refs_of_digest ON deleted_refs (digest);
