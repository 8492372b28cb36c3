-- Sessions, their turns, the journal of what each turn showed, and what it did.

CREATE TYPE input_policy AS ENUM ('queue', 'reject', 'interrupt');
CREATE TYPE turn_status AS ENUM ('queued', 'running', 'completed', 'failed', 'canceled');
-- In the order in which one step writes them: messages sort by it.
CREATE TYPE message_role AS ENUM ('user', 'assistant', 'tool');
CREATE TYPE tool_call_state AS ENUM ('intended', 'dispatched', 'finished', 'in_doubt');

CREATE TABLE sessions (
    id           uuid         PRIMARY KEY,
    account_id   uuid         NOT NULL,
    title        text         NOT NULL,
    input_policy input_policy NOT NULL,
    route        text         NOT NULL,
    next_ordinal bigint       NOT NULL DEFAULT 1,
    created_at   timestamptz  NOT NULL,
    updated_at   timestamptz  NOT NULL
);
CREATE INDEX sessions_by_account ON sessions (account_id, id DESC);
COMMENT ON TABLE sessions IS 'custody=session; Head of a conversation, deleted last';
COMMENT ON COLUMN sessions.id IS 'custody=session; Its id';
COMMENT ON COLUMN sessions.account_id IS 'custody=session; Its tenant';
COMMENT ON COLUMN sessions.title IS 'custody=session; Free text of the tenant';
COMMENT ON COLUMN sessions.input_policy IS 'custody=session; What happens to a second input';
COMMENT ON COLUMN sessions.route IS 'custody=session; Named list of models';
COMMENT ON COLUMN sessions.next_ordinal IS 'custody=session; Place that the next turn gets';
COMMENT ON COLUMN sessions.created_at IS 'custody=session; When it was made';
COMMENT ON COLUMN sessions.updated_at IS 'custody=session; When a turn was last accepted or ended';

CREATE TABLE turns (
    id            uuid        PRIMARY KEY,
    account_id    uuid        NOT NULL,
    session_id    uuid        NOT NULL REFERENCES sessions (id),
    ordinal       bigint      NOT NULL,
    status        turn_status NOT NULL,
    cause         text        NOT NULL DEFAULT '',
    epoch         bigint      NOT NULL DEFAULT 0,
    generation    bigint      NOT NULL DEFAULT 0,
    attempts      integer     NOT NULL DEFAULT 0,
    barren_claims integer     NOT NULL DEFAULT 0,
    lease_owner   text,
    lease_until   timestamptz,
    traceparent   text,
    created_at    timestamptz NOT NULL,
    started_at    timestamptz,
    ended_at      timestamptz,
    deadline_at   timestamptz NOT NULL,
    CONSTRAINT turns_in_order UNIQUE (session_id, ordinal),
    CONSTRAINT turns_lease_while_running CHECK ((status = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT turns_end_once CHECK ((status IN ('completed', 'failed', 'canceled')) = (ended_at IS NOT NULL))
);
-- What the claimer walks: only rows that wait, and only rows whose lease can run out or was given back.
CREATE INDEX turns_queued ON turns (id) WHERE status = 'queued';
CREATE INDEX turns_leased ON turns (lease_until) WHERE status = 'running';
CREATE INDEX turns_open ON turns (session_id, ordinal) WHERE status IN ('queued', 'running');
CREATE UNIQUE INDEX turns_one_running_a_session ON turns (session_id) WHERE status = 'running';
CREATE INDEX turns_by_account ON turns (account_id);
COMMENT ON TABLE turns IS 'custody=session; One user input on its way to one final answer';
COMMENT ON COLUMN turns.id IS 'custody=session; Its id';
COMMENT ON COLUMN turns.account_id IS 'custody=session; Its tenant';
COMMENT ON COLUMN turns.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN turns.ordinal IS 'custody=session; Place in the session';
COMMENT ON COLUMN turns.status IS 'custody=session; Where it stands';
COMMENT ON COLUMN turns.cause IS 'custody=session; Why it failed or was canceled';
COMMENT ON COLUMN turns.epoch IS 'custody=session; Fencing token: grows with every taking and every ending';
COMMENT ON COLUMN turns.generation IS 'custody=session; Version of the row';
COMMENT ON COLUMN turns.attempts IS 'custody=session; Workers that ran it';
COMMENT ON COLUMN turns.barren_claims IS 'custody=session; Claims since it last got further';
COMMENT ON COLUMN turns.lease_owner IS 'custody=session; Process that runs it';
COMMENT ON COLUMN turns.lease_until IS 'custody=session; When another may take it; -infinity: at once, it was handed over';
COMMENT ON COLUMN turns.traceparent IS 'custody=session; Trace that all of its spans share';
COMMENT ON COLUMN turns.created_at IS 'custody=session; When it was made';
COMMENT ON COLUMN turns.started_at IS 'custody=session; When it first ran';
COMMENT ON COLUMN turns.ended_at IS 'custody=session; When it became final';
COMMENT ON COLUMN turns.deadline_at IS 'custody=session; When it fails if it is not final';

-- No foreign key: the journal's writers lock the turn themselves, once a batch. The tenant is its turn's.
CREATE TABLE turn_events (
    turn_id uuid   NOT NULL,
    seq     bigint NOT NULL,
    kind    text   NOT NULL,
    payload bytea  NOT NULL,
    PRIMARY KEY (turn_id, seq)
);
COMMENT ON TABLE turn_events IS 'custody=session; What each turn showed, byte for byte';
COMMENT ON COLUMN turn_events.turn_id IS 'custody=session; Its turn';
COMMENT ON COLUMN turn_events.seq IS 'custody=session; Place in the turn, from 1';
COMMENT ON COLUMN turn_events.kind IS 'custody=session; Kind of event';
COMMENT ON COLUMN turn_events.payload IS 'custody=session; The JSON that every door sends';

CREATE TABLE messages (
    id            uuid         PRIMARY KEY,
    account_id    uuid         NOT NULL,
    session_id    uuid         NOT NULL REFERENCES sessions (id),
    turn_id       uuid         NOT NULL REFERENCES turns (id),
    ordinal       bigint       NOT NULL,
    step          integer      NOT NULL,
    role          message_role NOT NULL,
    parts         jsonb        NOT NULL,
    model         text         NOT NULL DEFAULT '',
    finish_reason text         NOT NULL DEFAULT '',
    created_at    timestamptz  NOT NULL,
    CONSTRAINT messages_one_a_step UNIQUE (turn_id, step, role)
);
-- A session's messages in order: by turn, then step, then role.
CREATE INDEX messages_in_order ON messages (session_id, ordinal, step, role);
COMMENT ON TABLE messages IS 'custody=session; What a session remembers; a turn''s rows are its committed steps';
COMMENT ON COLUMN messages.id IS 'custody=session; Its id';
COMMENT ON COLUMN messages.account_id IS 'custody=session; Its tenant';
COMMENT ON COLUMN messages.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN messages.turn_id IS 'custody=session; Its turn';
COMMENT ON COLUMN messages.ordinal IS 'custody=session; Place in the session';
COMMENT ON COLUMN messages.step IS 'custody=session; The step; 0 is the input';
COMMENT ON COLUMN messages.role IS 'custody=session; Who says it';
COMMENT ON COLUMN messages.parts IS 'custody=session; What it says';
COMMENT ON COLUMN messages.model IS 'custody=session; Name of the model in its route';
COMMENT ON COLUMN messages.finish_reason IS 'custody=session; Why the model ended it';
COMMENT ON COLUMN messages.created_at IS 'custody=session; When it was made';

CREATE TABLE tool_calls (
    turn_id       uuid            NOT NULL REFERENCES turns (id),
    step          integer         NOT NULL,
    call          integer         NOT NULL,
    account_id    uuid            NOT NULL,
    session_id    uuid            NOT NULL,
    call_id       text            NOT NULL,
    name          text            NOT NULL,
    arguments     text            NOT NULL,
    state         tool_call_state NOT NULL,
    dispatches    integer         NOT NULL DEFAULT 0,
    sandbox_id    uuid,
    content       text,
    is_error      boolean         NOT NULL DEFAULT false,
    intended_at   timestamptz     NOT NULL,
    dispatched_at timestamptz,
    ended_at      timestamptz,
    PRIMARY KEY (turn_id, step, call),
    CONSTRAINT tool_calls_end_once CHECK ((state IN ('finished', 'in_doubt')) = (ended_at IS NOT NULL)),
    CONSTRAINT tool_calls_have_content CHECK ((ended_at IS NULL) = (content IS NULL))
);
CREATE INDEX tool_calls_by_session ON tool_calls (session_id);
COMMENT ON TABLE tool_calls IS 'custody=session; Journal of tool calls, intent first';
COMMENT ON COLUMN tool_calls.turn_id IS 'custody=session; Its turn';
COMMENT ON COLUMN tool_calls.step IS 'custody=session; The step; 0 is the input';
COMMENT ON COLUMN tool_calls.call IS 'custody=session; Place among the calls of the step, from 1';
COMMENT ON COLUMN tool_calls.account_id IS 'custody=session; Its tenant';
COMMENT ON COLUMN tool_calls.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN tool_calls.call_id IS 'custody=session; The id that the model gave it';
COMMENT ON COLUMN tool_calls.name IS 'custody=session; The tool';
COMMENT ON COLUMN tool_calls.arguments IS 'custody=session; What the model passed';
COMMENT ON COLUMN tool_calls.state IS 'custody=session; How far it got';
COMMENT ON COLUMN tool_calls.dispatches IS 'custody=session; Times it was, or may have been, sent';
COMMENT ON COLUMN tool_calls.sandbox_id IS 'custody=session; Where it was sent last';
COMMENT ON COLUMN tool_calls.content IS 'custody=session; What the model reads';
COMMENT ON COLUMN tool_calls.is_error IS 'custody=session; Whether it failed, or may have';
COMMENT ON COLUMN tool_calls.intended_at IS 'custody=session; When the model made it';
COMMENT ON COLUMN tool_calls.dispatched_at IS 'custody=session; When it was sent last';
COMMENT ON COLUMN tool_calls.ended_at IS 'custody=session; When it became final';

-- A ledger: what every model call cost, one row an attempt. NULL is unknown, which is not zero.
CREATE TABLE usage_ledger (
    turn_id            uuid        NOT NULL,
    step               integer     NOT NULL,
    attempt            integer     NOT NULL,
    account_id         uuid        NOT NULL,
    session_id         uuid        NOT NULL,
    model              text        NOT NULL,
    input_tokens       bigint,
    output_tokens      bigint,
    cache_read_tokens  bigint,
    cache_write_tokens bigint,
    reasoning_tokens   bigint,
    unknown            boolean     NOT NULL,
    at                 timestamptz NOT NULL,
    PRIMARY KEY (turn_id, step, attempt)
);
CREATE INDEX usage_ledger_by_account ON usage_ledger (account_id, at);
COMMENT ON TABLE usage_ledger IS 'custody=ledger; What every model call cost: counts and ids, no content';
COMMENT ON COLUMN usage_ledger.turn_id IS 'custody=ledger; Its turn';
COMMENT ON COLUMN usage_ledger.step IS 'custody=ledger; The step; 0 is the input';
COMMENT ON COLUMN usage_ledger.attempt IS 'custody=ledger; Which try at the step, from 1';
COMMENT ON COLUMN usage_ledger.account_id IS 'custody=ledger; Its tenant';
COMMENT ON COLUMN usage_ledger.session_id IS 'custody=ledger; Its session';
COMMENT ON COLUMN usage_ledger.model IS 'custody=ledger; Name of the model in its route';
COMMENT ON COLUMN usage_ledger.input_tokens IS 'custody=ledger; Tokens of the prompt';
COMMENT ON COLUMN usage_ledger.output_tokens IS 'custody=ledger; Tokens of the answer';
COMMENT ON COLUMN usage_ledger.cache_read_tokens IS 'custody=ledger; Of the prompt: read from a cache';
COMMENT ON COLUMN usage_ledger.cache_write_tokens IS 'custody=ledger; Of the prompt: written to a cache';
COMMENT ON COLUMN usage_ledger.reasoning_tokens IS 'custody=ledger; Of the answer: reasoning';
COMMENT ON COLUMN usage_ledger.unknown IS 'custody=ledger; Whether nobody knows what it cost';
COMMENT ON COLUMN usage_ledger.at IS 'custody=ledger; When it was settled';

DO $$
BEGIN
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON usage_ledger FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
END
$$;
