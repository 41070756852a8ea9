-- A repository whose last manifest was deleted is not listed any more, until something is pushed to it again.

ALTER TABLE repositories ADD COLUMN listed SMALLINT NOT NULL DEFAULT 1;

UPDATE repositories SET listed = 0
WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = repositories.id);
