-- What a backup and a restore need.

-- Who copies bytes just now: until then no collector removes any.
CREATE TABLE byte_holds (
    holder     BIGINT NOT NULL PRIMARY KEY,
    held_until BIGINT NOT NULL
);

-- By which name backups know this registry. One row, made by the first backup.
CREATE TABLE registry_name (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL
);

-- The restore that fills this store. One row, from its begin to the commit of all metadata: a server does not serve meanwhile.
CREATE TABLE restore (
    id       INTEGER PRIMARY KEY,
    holder   BIGINT  NOT NULL,
    source   TEXT    NOT NULL,
    began_at BIGINT  NOT NULL
);
