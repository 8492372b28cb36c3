-- Tenants and the tokens by which everybody proves who they are.

CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL
);

COMMENT ON TABLE accounts IS 'custody=account; Tenants';
COMMENT ON COLUMN accounts.id IS 'custody=account; UUIDv7';
COMMENT ON COLUMN accounts.name IS 'custody=account; Name, as its creator gave it';
COMMENT ON COLUMN accounts.created_at IS 'custody=account; When it was created';

-- admin: an operator. account: a tenant. enrolment: good for one registration of one agent. agent: what that
-- registration gave.
CREATE TYPE token_kind AS ENUM ('admin', 'account', 'enrolment', 'agent');

CREATE TABLE api_tokens (
    id uuid PRIMARY KEY,
    kind token_kind NOT NULL,
    account_id uuid REFERENCES accounts (id),
    agent_id uuid,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    prefix text NOT NULL,
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_tokens_secret_hash_key UNIQUE (secret_hash),
    CONSTRAINT api_tokens_have_an_owner CHECK ((kind = 'admin') = (account_id IS NULL)),
    CONSTRAINT api_tokens_of_agents CHECK ((kind IN ('enrolment', 'agent')) = (agent_id IS NOT NULL))
);

-- Lists an account's own tokens, newest first.
CREATE INDEX api_tokens_by_account ON api_tokens (account_id, id DESC) WHERE kind = 'account';
-- What is revoked with an agent.
CREATE INDEX api_tokens_live_by_agent ON api_tokens (agent_id) WHERE agent_id IS NOT NULL AND revoked_at IS NULL;

COMMENT ON TABLE api_tokens IS 'custody=account; API tokens, without their secrets';
COMMENT ON COLUMN api_tokens.id IS 'custody=account; UUIDv7';
COMMENT ON COLUMN api_tokens.kind IS 'custody=account; Whom it names';
COMMENT ON COLUMN api_tokens.account_id IS 'custody=account; The tenant; NULL for operators';
COMMENT ON COLUMN api_tokens.agent_id IS 'custody=account; The agent, if it names one';
COMMENT ON COLUMN api_tokens.name IS 'custody=account; Name, as its creator gave it';
COMMENT ON COLUMN api_tokens.prefix IS 'custody=account; First characters of the secret, to tell tokens apart';
COMMENT ON COLUMN api_tokens.secret_hash IS 'custody=account; SHA-256 of the secret';
COMMENT ON COLUMN api_tokens.scopes IS 'custody=account; What it allows; * is everything';
COMMENT ON COLUMN api_tokens.created_at IS 'custody=account; When it was created';
COMMENT ON COLUMN api_tokens.expires_at IS 'custody=account; When it stops working, if ever';
COMMENT ON COLUMN api_tokens.revoked_at IS 'custody=account; When it was revoked, if it was';
