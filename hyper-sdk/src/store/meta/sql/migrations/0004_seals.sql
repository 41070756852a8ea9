-- The content that an upload is being finished with. Servers that finish it at once agree on it here, before one of them has
-- the blob backend put it together.
ALTER TABLE uploads ADD COLUMN sealed TEXT;
