-- Which writer puts parts of an upload into a bucket, and until when no other one may.
--
-- The new name keeps servers of earlier versions from it, which know neither claims nor seals: what they ask fails.
ALTER TABLE uploads RENAME TO upload_sessions;
ALTER TABLE upload_sessions ADD COLUMN writer TEXT;
ALTER TABLE upload_sessions ADD COLUMN writer_until BIGINT NOT NULL DEFAULT 0;
