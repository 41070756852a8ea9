-- When tags and manifests were last pulled. The name is that of a tag, or a digest, which no tag can be. The time is exact to
-- an hour or so. The row goes with the tag or the manifest.
CREATE TABLE pulls (
    repository_id BIGINT NOT NULL,
    name          TEXT   NOT NULL,
    pulled_at     BIGINT NOT NULL,
    PRIMARY KEY (repository_id, name)
);

-- Since when pulls are noted, and when a server has last told so. One row, which the first server makes: what has no note was not
-- pulled since.
CREATE TABLE pull_notes (
    id          INTEGER PRIMARY KEY,
    noted_since BIGINT  NOT NULL,
    noted_until BIGINT  NOT NULL
);
