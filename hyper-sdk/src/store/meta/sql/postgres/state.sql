-- What PostgreSQL needs besides the tables of every database.

-- One row, which a transaction that writes updates first: it has the right to write until it ends. The version is another
-- number after each change that readers can see.
CREATE TABLE registry_state (
    only_row BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    version  BIGINT  NOT NULL,
    -- The name of this registry, by which a folder or a bucket of blobs knows its database.
    id       TEXT    NOT NULL,
    -- What the servers of this registry sign with.
    secret   TEXT    NOT NULL,
    -- Where its blobs are, once a server has said so.
    blobs    TEXT
);
