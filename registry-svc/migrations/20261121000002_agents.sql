-- Agents: who they are, where they are reached, how they are.

CREATE TYPE agent_status AS ENUM ('awaiting_agent', 'online', 'degraded', 'offline', 'paused', 'removed');
CREATE TYPE delivery_mode AS ENUM ('push', 'poll');

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    role text NOT NULL CHECK (char_length(role) <= 1000),
    status agent_status NOT NULL,
    status_changed_at timestamptz NOT NULL,
    generation bigint NOT NULL CHECK (generation > 0),
    incarnation bigint NOT NULL CHECK (incarnation > 0),
    delivery_mode delivery_mode NOT NULL,
    url text,
    card jsonb,
    max_concurrent_tasks integer NOT NULL CHECK (max_concurrent_tasks BETWEEN 1 AND 1000),
    active_tasks integer NOT NULL DEFAULT 0 CHECK (active_tasks >= 0),
    error_rate double precision NOT NULL DEFAULT 0 CHECK (error_rate BETWEEN 0 AND 1),
    wedged boolean NOT NULL DEFAULT false,
    judges_itself boolean NOT NULL DEFAULT false,
    sample_error text NOT NULL DEFAULT '',
    current_task text NOT NULL DEFAULT '',
    last_heartbeat_at timestamptz,
    registered_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT agents_that_are_called_say_where CHECK (
        registered_at IS NULL OR (delivery_mode = 'push') = (url IS NOT NULL)
    )
);

-- Lists a tenant's agents, newest first.
CREATE INDEX agents_by_account ON agents (account_id, id DESC) WHERE status <> 'removed';
-- Those whose silence would be noticed.
CREATE INDEX agents_alive ON agents (id) WHERE status IN ('online', 'degraded');

ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agents (id);

COMMENT ON TABLE agents IS 'custody=account; Agents of tenants; a removed one stays until its account goes';
COMMENT ON COLUMN agents.id IS 'custody=account; UUIDv7';
COMMENT ON COLUMN agents.account_id IS 'custody=account; The tenant';
COMMENT ON COLUMN agents.name IS 'custody=account; Name, as the tenant gave it';
COMMENT ON COLUMN agents.role IS 'custody=account; What it is for, in the tenant''s words';
COMMENT ON COLUMN agents.status IS 'custody=account; Where it stands; written by one function';
COMMENT ON COLUMN agents.status_changed_at IS 'custody=account; When that changed last';
COMMENT ON COLUMN agents.generation IS 'custody=account; Version of the record';
COMMENT ON COLUMN agents.incarnation IS 'custody=account; A beat of an earlier one changes nothing';
COMMENT ON COLUMN agents.delivery_mode IS 'custody=account; How messages reach it';
COMMENT ON COLUMN agents.url IS 'custody=account; Where it is called';
COMMENT ON COLUMN agents.card IS 'custody=account; Its A2A card';
COMMENT ON COLUMN agents.max_concurrent_tasks IS 'custody=account; How much it does at once';
COMMENT ON COLUMN agents.active_tasks IS 'custody=account; What it does now, by a recent beat';
COMMENT ON COLUMN agents.error_rate IS 'custody=account; Share of its requests that failed, by a recent beat';
COMMENT ON COLUMN agents.wedged IS 'custody=account; It said that it cannot go on';
COMMENT ON COLUMN agents.judges_itself IS 'custody=account; Its word counts for its health, its error rate does not';
COMMENT ON COLUMN agents.sample_error IS 'custody=account; A sample of its errors';
COMMENT ON COLUMN agents.current_task IS 'custody=account; What it works on, in its words';
COMMENT ON COLUMN agents.last_heartbeat_at IS 'custody=account; When it was last heard of; written in batches';
COMMENT ON COLUMN agents.registered_at IS 'custody=account; When it registered last';
COMMENT ON COLUMN agents.created_at IS 'custody=account; When it was created';
