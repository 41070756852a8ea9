-- What a registry knows. Digests are text, as in the protocol; times are seconds since 1970.

CREATE TABLE repositories (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at BIGINT  NOT NULL
);

CREATE TABLE blobs (
    id         INTEGER PRIMARY KEY,
    digest     TEXT    NOT NULL UNIQUE,
    size       BIGINT  NOT NULL,
    created_at BIGINT  NOT NULL
);

-- A blob can be read in a repository only through its row here.
CREATE TABLE blob_links (
    repository_id BIGINT NOT NULL REFERENCES repositories (id),
    blob_id       BIGINT NOT NULL REFERENCES blobs (id),
    PRIMARY KEY (repository_id, blob_id)
);

CREATE INDEX blob_links_of_blob ON blob_links (blob_id);

CREATE TABLE manifests (
    id            INTEGER PRIMARY KEY,
    repository_id BIGINT  NOT NULL REFERENCES repositories (id),
    digest        TEXT    NOT NULL,
    media_type    TEXT    NOT NULL,
    subject       TEXT,
    artifact_type TEXT,
    -- A JSON object of strings.
    annotations   TEXT    NOT NULL,
    size          BIGINT  NOT NULL,
    created_at    BIGINT  NOT NULL,
    -- The bytes as they came; last, so that the columns before them are read without them.
    body          BLOB    NOT NULL,
    UNIQUE (repository_id, digest)
);

CREATE INDEX manifests_of_subject ON manifests (repository_id, subject, digest) WHERE subject IS NOT NULL;

-- Edges to what a manifest references: kind 0 is a blob, kind 1 a manifest. The target may be missing.
CREATE TABLE manifest_refs (
    manifest_id BIGINT   NOT NULL REFERENCES manifests (id),
    kind        SMALLINT NOT NULL,
    digest      TEXT     NOT NULL,
    PRIMARY KEY (manifest_id, kind, digest)
);

CREATE INDEX manifest_refs_of_digest ON manifest_refs (digest);

CREATE TABLE tags (
    repository_id BIGINT NOT NULL REFERENCES repositories (id),
    name          TEXT   NOT NULL,
    manifest_id   BIGINT NOT NULL REFERENCES manifests (id),
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (repository_id, name)
);

CREATE INDEX tags_of_manifest ON tags (manifest_id);

-- The repository is a name: it need not exist before the upload ends.
CREATE TABLE uploads (
    id           TEXT   PRIMARY KEY,
    repository   TEXT   NOT NULL,
    algorithm    TEXT   NOT NULL,
    saved_offset BIGINT NOT NULL,
    hash         BLOB   NOT NULL,
    started_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
