-- Messages between agents, and the lanes in which they keep their order.

CREATE TYPE relay_state AS ENUM ('queued', 'dispatched', 'delivered', 'failed', 'expired', 'dropped');
CREATE TYPE a2a_version AS ENUM ('0.3', '1.0');

-- One conversation with one agent (or one message, where it has none). Locked in the order agent, lane, message.
CREATE TABLE relay_lanes (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    target_id uuid NOT NULL REFERENCES agents (id),
    key text NOT NULL,
    mode delivery_mode NOT NULL,
    last_seq bigint NOT NULL,
    pending integer NOT NULL CHECK (pending >= 0),
    ready_at timestamptz,
    lease_owner text,
    lease_until timestamptz,
    epoch bigint NOT NULL DEFAULT 0,
    CONSTRAINT relay_lanes_target_id_key_key UNIQUE (target_id, key)
);

-- What a dispatcher looks for: the longest ready first.
CREATE INDEX relay_lanes_ready ON relay_lanes (ready_at) WHERE mode = 'push' AND ready_at IS NOT NULL;
-- How many an agent has on their way.
CREATE INDEX relay_lanes_held ON relay_lanes (target_id) WHERE lease_owner IS NOT NULL;
CREATE INDEX relay_lanes_by_account ON relay_lanes (account_id);
-- What retention deletes once its messages are gone.
CREATE INDEX relay_lanes_idle ON relay_lanes (id) WHERE pending = 0;

COMMENT ON TABLE relay_lanes IS 'custody=account; Conversations with agents: what is sent in one keeps its order';
COMMENT ON COLUMN relay_lanes.id IS 'custody=account; UUIDv7';
COMMENT ON COLUMN relay_lanes.account_id IS 'custody=account; The tenant';
COMMENT ON COLUMN relay_lanes.target_id IS 'custody=account; The agent';
COMMENT ON COLUMN relay_lanes.key IS 'custody=account; Context id, or message id where there is none';
COMMENT ON COLUMN relay_lanes.mode IS 'custody=account; How the agent gets it; changes with the agent, in a new epoch';
COMMENT ON COLUMN relay_lanes.last_seq IS 'custody=account; Number of its latest message';
COMMENT ON COLUMN relay_lanes.pending IS 'custody=account; Messages that have not ended';
COMMENT ON COLUMN relay_lanes.ready_at IS 'custody=account; When to go on; NULL: nothing to do, or the agent is away';
COMMENT ON COLUMN relay_lanes.lease_owner IS 'custody=account; Who works on it';
COMMENT ON COLUMN relay_lanes.lease_until IS 'custody=account; Until when, unless renewed';
COMMENT ON COLUMN relay_lanes.epoch IS 'custody=account; Grows with every holder';

CREATE TABLE relay_messages (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    target_id uuid NOT NULL REFERENCES agents (id),
    lane_id uuid NOT NULL REFERENCES relay_lanes (id),
    seq bigint NOT NULL,
    sender_id text NOT NULL,
    message_id text NOT NULL,
    context_id text,
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    version a2a_version NOT NULL,
    params bytea NOT NULL,
    traceparent text,
    state relay_state NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    arrivals integer NOT NULL DEFAULT 0,
    code text NOT NULL DEFAULT '',
    answer bytea,
    answer_version a2a_version,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    settled_at timestamptz,
    CONSTRAINT relay_messages_once UNIQUE (target_id, sender_id, message_id),
    CONSTRAINT relay_messages_in_order UNIQUE (lane_id, seq),
    CONSTRAINT relay_messages_end CHECK ((state IN ('queued', 'dispatched')) = (settled_at IS NULL)),
    CONSTRAINT relay_messages_answered CHECK ((answer IS NULL) = (answer_version IS NULL))
);

-- The head of a lane.
CREATE INDEX relay_messages_open ON relay_messages (lane_id, seq) WHERE state IN ('queued', 'dispatched');
-- How many an agent has waiting.
CREATE INDEX relay_messages_waiting ON relay_messages (target_id) WHERE state IN ('queued', 'dispatched');
CREATE INDEX relay_messages_expiring ON relay_messages (expires_at) WHERE state = 'queued';
CREATE INDEX relay_messages_settled ON relay_messages (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX relay_messages_by_account ON relay_messages (account_id);

COMMENT ON TABLE relay_messages IS 'custody=account; Messages to agents, from their acceptance to their end';
COMMENT ON COLUMN relay_messages.id IS 'custody=account; UUIDv7';
COMMENT ON COLUMN relay_messages.account_id IS 'custody=account; The tenant';
COMMENT ON COLUMN relay_messages.target_id IS 'custody=account; The agent it is for';
COMMENT ON COLUMN relay_messages.lane_id IS 'custody=account; Its lane';
COMMENT ON COLUMN relay_messages.seq IS 'custody=account; Its place in the lane; commit order';
COMMENT ON COLUMN relay_messages.sender_id IS 'custody=account; Who sent it';
COMMENT ON COLUMN relay_messages.message_id IS 'custody=account; A2A message id: what makes it the same message';
COMMENT ON COLUMN relay_messages.context_id IS 'custody=account; A2A context id';
COMMENT ON COLUMN relay_messages.request_hash IS 'custody=account; SHA-256 of params';
COMMENT ON COLUMN relay_messages.version IS 'custody=account; A2A version of params';
COMMENT ON COLUMN relay_messages.params IS 'custody=account; What was sent, JSON';
COMMENT ON COLUMN relay_messages.traceparent IS 'custody=account; Trace that it came from';
COMMENT ON COLUMN relay_messages.state IS 'custody=account; What became of it';
COMMENT ON COLUMN relay_messages.attempts IS 'custody=account; How often it was dispatched';
COMMENT ON COLUMN relay_messages.arrivals IS 'custody=account; How many of those can have arrived';
COMMENT ON COLUMN relay_messages.code IS 'custody=account; Why it ended without an answer, or its latest problem';
COMMENT ON COLUMN relay_messages.answer IS 'custody=account; The agent''s answer, JSON';
COMMENT ON COLUMN relay_messages.answer_version IS 'custody=account; A2A version of the answer';
COMMENT ON COLUMN relay_messages.created_at IS 'custody=account; When it was stored';
COMMENT ON COLUMN relay_messages.expires_at IS 'custody=account; When it is given up if it was not dispatched';
COMMENT ON COLUMN relay_messages.settled_at IS 'custody=account; When it ended';
