-- Which namespaces are counted, and what they use. Every change of the tables below a namespace changes its counts in the same
-- transaction, whichever process makes it and whatever limits that knows.
CREATE TABLE quotas (
    id         INTEGER PRIMARY KEY,
    -- The name of a repository, which has everything below it too, or ** for all.
    namespace  TEXT    NOT NULL UNIQUE,
    bytes      BIGINT  NOT NULL,
    tags       BIGINT  NOT NULL,
    manifests  BIGINT  NOT NULL,
    counted_at BIGINT  NOT NULL
);

-- How many repositories of a namespace have a blob, while one does.
CREATE TABLE quota_blobs (
    blob_id  BIGINT NOT NULL REFERENCES blobs (id),
    quota_id BIGINT NOT NULL REFERENCES quotas (id),
    links    BIGINT NOT NULL,
    PRIMARY KEY (blob_id, quota_id)
);

-- How many repositories of a namespace have a manifest, while one does.
CREATE TABLE quota_manifests (
    digest   TEXT   NOT NULL,
    quota_id BIGINT NOT NULL REFERENCES quotas (id),
    size     BIGINT NOT NULL,
    copies   BIGINT NOT NULL,
    PRIMARY KEY (digest, quota_id)
);
