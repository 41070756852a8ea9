-- What a consumer did not take: how many events were given up and which one was the last, and for how long and how often the
-- event after its place was tried and refused.
ALTER TABLE event_consumers ADD COLUMN given_up BIGINT NOT NULL DEFAULT 0;
ALTER TABLE event_consumers ADD COLUMN last_given_up BIGINT;
ALTER TABLE event_consumers ADD COLUMN tried BIGINT NOT NULL DEFAULT 0;
ALTER TABLE event_consumers ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;

-- Finds the counts of namespaces that have not ended, among many that have.
CREATE INDEX quotas_unended ON quotas (id) WHERE at_repository IS NOT NULL;
