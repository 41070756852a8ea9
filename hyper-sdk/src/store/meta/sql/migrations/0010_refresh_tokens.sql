-- Refresh tokens: what they are bound to. An API token is bound to nothing.
ALTER TABLE api_tokens ADD COLUMN bound_to TEXT;
CREATE INDEX api_tokens_user ON api_tokens (user_name);
