-- Engines, the sandboxes on them with their workspaces, and the journal of what is run in them.

CREATE TYPE sandbox_state AS ENUM ('requested', 'creating', 'running', 'deleting', 'gone', 'failed');
CREATE TYPE sandbox_cause AS ENUM ('deleted', 'expired', 'erased', 'retired', 'create_timeout', 'image_missing',
    'engine_refused', 'guest_silent', 'container_lost', 'container_exited', 'guest_restarted', 'orphaned');
CREATE TYPE pool_state AS ENUM ('filling', 'available');
CREATE TYPE network_policy AS ENUM ('none');
CREATE TYPE volume_state AS ENUM ('live', 'removing', 'gone');
CREATE TYPE exec_state AS ENUM ('running', 'finished', 'abandoned', 'in_doubt');

CREATE TABLE engines (
    id           text        PRIMARY KEY,
    memory_bytes bigint      NOT NULL,
    seen_at      timestamptz NOT NULL
);
COMMENT ON TABLE engines IS 'custody=system; Docker daemons; locked to count what is being created on one';
COMMENT ON COLUMN engines.id IS 'custody=system; The id the daemon gave itself';
COMMENT ON COLUMN engines.memory_bytes IS 'custody=system; Memory of its host';
COMMENT ON COLUMN engines.seen_at IS 'custody=system; When a replica last spoke with it';

-- A workspace. Its row is committed before the volume is made and says "gone" only after it was removed.
CREATE TABLE volumes (
    id           uuid         PRIMARY KEY,
    account_id   uuid,
    session_id   uuid,
    engine_id    text         NOT NULL REFERENCES engines (id),
    state        volume_state NOT NULL,
    retain_until timestamptz,
    created_at   timestamptz  NOT NULL,
    ended_at     timestamptz,
    CONSTRAINT volumes_owned_as_a_whole CHECK ((account_id IS NULL) = (session_id IS NULL)),
    CONSTRAINT volumes_end_once CHECK ((state = 'gone') = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX volumes_one_a_session ON volumes (session_id) WHERE state = 'live';
CREATE INDEX volumes_to_remove ON volumes (engine_id, retain_until) WHERE state <> 'gone';
CREATE INDEX volumes_by_account ON volumes (account_id);
COMMENT ON TABLE volumes IS 'custody=session; Workspaces: one volume each, on one engine';
COMMENT ON COLUMN volumes.id IS 'custody=session; Its id, in the volume''s name and label';
COMMENT ON COLUMN volumes.account_id IS 'custody=session; Its tenant; none while it waits in the pool';
COMMENT ON COLUMN volumes.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN volumes.engine_id IS 'custody=session; Where it is';
COMMENT ON COLUMN volumes.state IS 'custody=session; Whether it may be used, is being removed, is confirmed absent';
COMMENT ON COLUMN volumes.retain_until IS 'custody=session; When it may be removed; none while a sandbox has it';
COMMENT ON COLUMN volumes.created_at IS 'custody=session; When it was first wanted';
COMMENT ON COLUMN volumes.ended_at IS 'custody=session; When its absence was confirmed';

CREATE TABLE sandboxes (
    id                   uuid           PRIMARY KEY,
    account_id           uuid,
    session_id           uuid,
    engine_id            text           NOT NULL REFERENCES engines (id),
    state                sandbox_state  NOT NULL,
    generation           bigint         NOT NULL,
    epoch                bigint         NOT NULL DEFAULT 0,
    lease_owner          text,
    lease_until          timestamptz,
    warm                 boolean        NOT NULL,
    pool_slot            integer,
    pool_state           pool_state,
    retire_at            timestamptz,
    image                text           NOT NULL,
    runtime              text           NOT NULL,
    cpu_millis           integer        NOT NULL,
    memory_bytes         bigint         NOT NULL,
    network              network_policy NOT NULL,
    volume_id            uuid           NOT NULL,
    container_generation bigint,
    container_run_dir    text,
    container_image      text,
    container_id         text,
    guest_instance       text,
    fence_until          timestamptz,
    cause                sandbox_cause,
    created_at           timestamptz    NOT NULL,
    running_at           timestamptz,
    last_active_at       timestamptz    NOT NULL,
    deadline_at          timestamptz    NOT NULL,
    ended_at             timestamptz,
    CONSTRAINT sandboxes_owned_as_a_whole CHECK ((account_id IS NULL) = (session_id IS NULL)),
    CONSTRAINT sandboxes_slot_as_a_whole CHECK ((pool_slot IS NULL) = (pool_state IS NULL)),
    CONSTRAINT sandboxes_in_the_pool_are_nobodys CHECK (pool_slot IS NULL OR session_id IS NULL),
    CONSTRAINT sandboxes_of_nobody_are_warm_or_orphans CHECK (session_id IS NOT NULL OR warm OR cause = 'orphaned'),
    CONSTRAINT sandboxes_container_as_a_whole CHECK ((container_generation IS NULL) = (container_run_dir IS NULL)
        AND (container_generation IS NULL) = (container_image IS NULL)
        AND (container_generation IS NULL) = (fence_until IS NULL)),
    CONSTRAINT sandboxes_run_with_a_guest CHECK (state <> 'running' OR (container_id IS NOT NULL
        AND guest_instance IS NOT NULL AND running_at IS NOT NULL)),
    CONSTRAINT sandboxes_deleted_for_a_cause CHECK ((state IN ('deleting', 'gone', 'failed')) = (cause IS NOT NULL)),
    CONSTRAINT sandboxes_end_once CHECK ((state IN ('gone', 'failed')) = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX sandboxes_one_live_a_session ON sandboxes (session_id)
    WHERE state IN ('requested', 'creating', 'running');
-- What is mounted read-write is mounted once; the next container waits for the absence of the last.
CREATE UNIQUE INDEX sandboxes_one_container_a_volume ON sandboxes (volume_id)
    WHERE state IN ('creating', 'running', 'deleting');
CREATE UNIQUE INDEX sandboxes_one_a_slot ON sandboxes (engine_id, pool_slot, pool_state) WHERE pool_slot IS NOT NULL;
CREATE INDEX sandboxes_queued ON sandboxes (engine_id, warm, created_at, id) WHERE state = 'requested';
CREATE INDEX sandboxes_live ON sandboxes (engine_id, state) WHERE state NOT IN ('gone', 'failed');
CREATE INDEX sandboxes_due ON sandboxes (deadline_at) WHERE state IN ('requested', 'creating', 'running');
CREATE INDEX sandboxes_never_ran ON sandboxes (engine_id, created_at) WHERE warm AND running_at IS NULL;
CREATE INDEX sandboxes_by_account ON sandboxes (account_id, id DESC);
CREATE INDEX sandboxes_by_session ON sandboxes (session_id);
CREATE INDEX sandboxes_by_volume ON sandboxes (volume_id);
COMMENT ON TABLE sandboxes IS 'custody=session; One container each, of one session or waiting in the pool';
COMMENT ON COLUMN sandboxes.id IS 'custody=session; Its id, in the container''s name and label';
COMMENT ON COLUMN sandboxes.account_id IS 'custody=session; Its tenant; none while it waits in the pool';
COMMENT ON COLUMN sandboxes.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN sandboxes.engine_id IS 'custody=session; Where it is';
COMMENT ON COLUMN sandboxes.state IS 'custody=session; Where it stands';
COMMENT ON COLUMN sandboxes.generation IS 'custody=session; Version of the row';
COMMENT ON COLUMN sandboxes.epoch IS 'custody=session; Fencing token of who makes or removes it';
COMMENT ON COLUMN sandboxes.lease_owner IS 'custody=session; Process that makes or removes it';
COMMENT ON COLUMN sandboxes.lease_until IS 'custody=session; When another may take over; none: at once';
COMMENT ON COLUMN sandboxes.warm IS 'custody=session; Whether it was made for the pool';
COMMENT ON COLUMN sandboxes.pool_slot IS 'custody=session; Its place in the pool, until claimed or retired';
COMMENT ON COLUMN sandboxes.pool_state IS 'custody=session; Whether it can be claimed yet';
COMMENT ON COLUMN sandboxes.retire_at IS 'custody=session; When it leaves the pool unclaimed';
COMMENT ON COLUMN sandboxes.image IS 'custody=session; Image by name, part of its shape';
COMMENT ON COLUMN sandboxes.runtime IS 'custody=session; OCI runtime, part of its shape';
COMMENT ON COLUMN sandboxes.cpu_millis IS 'custody=session; Thousandths of a CPU, part of its shape';
COMMENT ON COLUMN sandboxes.memory_bytes IS 'custody=session; Memory, part of its shape';
COMMENT ON COLUMN sandboxes.network IS 'custody=session; What it may reach, part of its shape';
COMMENT ON COLUMN sandboxes.volume_id IS 'custody=session; Its workspace';
COMMENT ON COLUMN sandboxes.container_generation IS 'custody=session; Generation as the container was decided on';
COMMENT ON COLUMN sandboxes.container_run_dir IS 'custody=session; Directory without which it cannot start';
COMMENT ON COLUMN sandboxes.container_image IS 'custody=session; Id of the image it is made from';
COMMENT ON COLUMN sandboxes.container_id IS 'custody=session; Its full id, once the engine told it';
COMMENT ON COLUMN sandboxes.guest_instance IS 'custody=session; The guest that holds the records of its execs';
COMMENT ON COLUMN sandboxes.fence_until IS 'custody=session; Until when a forgotten create may be under way';
COMMENT ON COLUMN sandboxes.cause IS 'custody=session; Why it is deleted';
COMMENT ON COLUMN sandboxes.created_at IS 'custody=session; When it was requested';
COMMENT ON COLUMN sandboxes.running_at IS 'custody=session; When its guest first answered';
COMMENT ON COLUMN sandboxes.last_active_at IS 'custody=session; When it was last used';
COMMENT ON COLUMN sandboxes.deadline_at IS 'custody=session; When it must have left its state';
COMMENT ON COLUMN sandboxes.ended_at IS 'custody=session; When its absence was confirmed';

CREATE TABLE execs (
    sandbox_id       uuid        NOT NULL REFERENCES sandboxes (id),
    key              text        NOT NULL,
    account_id       uuid        NOT NULL,
    session_id       uuid        NOT NULL,
    state            exec_state  NOT NULL,
    request_hash     bytea,
    exit_code        integer,
    stdout           bytea,
    stderr           bytea,
    stdout_truncated boolean     NOT NULL DEFAULT false,
    stderr_truncated boolean     NOT NULL DEFAULT false,
    timed_out        boolean     NOT NULL DEFAULT false,
    duration_ms      bigint,
    created_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    PRIMARY KEY (sandbox_id, key),
    CONSTRAINT execs_end_once CHECK ((state <> 'running') = (ended_at IS NOT NULL)),
    CONSTRAINT execs_finish_with_an_outcome CHECK ((state = 'finished') = (exit_code IS NOT NULL)
        AND (state = 'finished') = (stdout IS NOT NULL) AND (state = 'finished') = (stderr IS NOT NULL)
        AND (state = 'finished') = (duration_ms IS NOT NULL)),
    CONSTRAINT execs_without_a_request_never_ran CHECK (request_hash IS NOT NULL OR state = 'abandoned')
);
CREATE INDEX execs_by_session ON execs (session_id);
COMMENT ON TABLE execs IS 'custody=session; Journal of keyed calls, intent first; a key means one call for ever';
COMMENT ON COLUMN execs.sandbox_id IS 'custody=session; Where it was to run';
COMMENT ON COLUMN execs.key IS 'custody=session; Its key, as the caller chose it';
COMMENT ON COLUMN execs.account_id IS 'custody=session; Its tenant';
COMMENT ON COLUMN execs.session_id IS 'custody=session; Its session';
COMMENT ON COLUMN execs.state IS 'custody=session; How it stands';
COMMENT ON COLUMN execs.request_hash IS 'custody=session; SHA-256 of the call; none if it was written off unseen';
COMMENT ON COLUMN execs.exit_code IS 'custody=session; Exit code';
COMMENT ON COLUMN execs.stdout IS 'custody=session; Standard output, cut';
COMMENT ON COLUMN execs.stderr IS 'custody=session; Standard error, cut';
COMMENT ON COLUMN execs.stdout_truncated IS 'custody=session; Whether there was more of it';
COMMENT ON COLUMN execs.stderr_truncated IS 'custody=session; Whether there was more of it';
COMMENT ON COLUMN execs.timed_out IS 'custody=session; Whether it was killed at its timeout';
COMMENT ON COLUMN execs.duration_ms IS 'custody=session; How long it ran';
COMMENT ON COLUMN execs.created_at IS 'custody=session; When it was first asked for';
COMMENT ON COLUMN execs.ended_at IS 'custody=session; When it became final';
