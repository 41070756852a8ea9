-- What a garbage collector needs, and blob backends that keep bytes under keys of their own.

-- What the backend knows the bytes by; NULL where that is the digest.
ALTER TABLE blobs ADD COLUMN own_key TEXT;

-- The mark of the collector that is removing the blob.
ALTER TABLE blobs ADD COLUMN condemned BIGINT;

CREATE INDEX blobs_of_key ON blobs (own_key) WHERE own_key IS NOT NULL;

-- Until when a link is kept though no manifest references the blob.
ALTER TABLE blob_links ADD COLUMN leased_until BIGINT NOT NULL DEFAULT 0;

-- The repositories of a blob, page by page.
DROP INDEX blob_links_of_blob;
CREATE INDEX blob_links_of_blob ON blob_links (blob_id, repository_id);

-- What the blob backend needs besides to go on with an upload.
ALTER TABLE uploads ADD COLUMN backend BLOB NOT NULL DEFAULT x'';
