-- Erasure jobs, what they found, what stopped them, and the ledger of what is gone.

CREATE TYPE purge_trigger AS ENUM ('subject_request', 'user_erasure', 'account_deletion', 'grace_expiry');
CREATE TYPE purge_phase AS ENUM ('pending', 'frozen', 'inventoried', 'erasing', 'erased', 'verified');
CREATE TYPE purge_state AS ENUM (
    'pending', 'frozen', 'inventoried', 'erasing', 'erased', 'verified',
    'blocked', 'dead_lettered', 'committed', 'thawed'
);

CREATE TABLE purge_jobs (
    purge_id uuid PRIMARY KEY,
    account_id uuid,
    subject_kind subject_kind NOT NULL,
    subject_id uuid,
    subject_hash bytea NOT NULL CHECK (octet_length(subject_hash) = 32),
    trigger purge_trigger NOT NULL,
    priority smallint NOT NULL,
    requested_by text,
    state purge_state NOT NULL DEFAULT 'pending',
    phase purge_phase DEFAULT 'pending',
    cause text,
    waits_for text,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    rounds integer NOT NULL DEFAULT 0 CHECK (rounds >= 0),
    giving_up boolean NOT NULL DEFAULT false,
    next_attempt_at timestamptz NOT NULL,
    generation bigint NOT NULL CHECK (generation > 0),
    cause_traceparent text,
    traceparent text,
    created_at timestamptz NOT NULL,
    committed_at timestamptz,
    lease_owner text,
    lease_until timestamptz,
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    -- Where work goes on is known for as long as there is work, and says the same as the state.
    CONSTRAINT purge_jobs_phase CHECK (CASE
        WHEN state IN ('committed', 'thawed') THEN phase IS NULL
        WHEN state = 'dead_lettered' THEN phase = 'erasing'
        WHEN state = 'blocked' THEN phase IS NOT NULL
        ELSE phase::text = state::text
    END),
    -- A job knows whom it erases until it has, and not a moment longer.
    CONSTRAINT purge_jobs_subject CHECK (CASE
        WHEN state = 'committed' THEN subject_id IS NULL
        WHEN state = 'thawed' THEN true
        ELSE subject_id IS NOT NULL AND account_id IS NOT NULL AND requested_by IS NOT NULL
    END),
    CONSTRAINT purge_jobs_committed CHECK ((state = 'committed') = (committed_at IS NOT NULL))
);

-- One job a subject, for ever: only one that was given up makes room for another.
CREATE UNIQUE INDEX purge_jobs_one_per_subject ON purge_jobs (subject_kind, subject_hash)
    WHERE state <> 'thawed';
CREATE INDEX purge_jobs_by_subject ON purge_jobs (subject_hash);
CREATE INDEX purge_jobs_due ON purge_jobs (priority, next_attempt_at, purge_id)
    WHERE state NOT IN ('dead_lettered', 'committed', 'thawed');
CREATE INDEX purge_jobs_by_account ON purge_jobs (account_id, purge_id DESC);

COMMENT ON TABLE purge_jobs IS 'custody=ledger; Erasures, one a subject; what names the subject goes when it is gone';
COMMENT ON COLUMN purge_jobs.purge_id IS 'custody=ledger; The job; issued here and nowhere else';
COMMENT ON COLUMN purge_jobs.account_id IS 'custody=account; Whose job it is, so that its owner can read it; null once the account is erased';
COMMENT ON COLUMN purge_jobs.subject_kind IS 'custody=ledger; Session or account';
COMMENT ON COLUMN purge_jobs.subject_id IS 'custody=session; The subject; null once it is erased';
COMMENT ON COLUMN purge_jobs.subject_hash IS 'custody=ledger; SHA-256 of the subject''s kind and id; what is left of it';
COMMENT ON COLUMN purge_jobs.trigger IS 'custody=ledger; Why it is erased';
COMMENT ON COLUMN purge_jobs.priority IS 'custody=ledger; Place of its trigger in the queue, lower first';
COMMENT ON COLUMN purge_jobs.requested_by IS 'custody=account; Id of the principal that asked; null once the account is erased';
COMMENT ON COLUMN purge_jobs.state IS 'custody=ledger; Where it stands';
COMMENT ON COLUMN purge_jobs.phase IS 'custody=ledger; The last step that is done, from which it goes on; null once final';
COMMENT ON COLUMN purge_jobs.cause IS 'custody=ledger; Why it waits';
COMMENT ON COLUMN purge_jobs.waits_for IS 'custody=ledger; The service it waits for';
COMMENT ON COLUMN purge_jobs.attempts IS 'custody=ledger; Failures in a row of the present step';
COMMENT ON COLUMN purge_jobs.rounds IS 'custody=ledger; Read-backs that found something';
COMMENT ON COLUMN purge_jobs.giving_up IS 'custody=ledger; Whether its owner called it back';
COMMENT ON COLUMN purge_jobs.next_attempt_at IS 'custody=ledger; No worker takes it before';
COMMENT ON COLUMN purge_jobs.generation IS 'custody=ledger; Grows with every change';
COMMENT ON COLUMN purge_jobs.cause_traceparent IS 'custody=ledger; Trace of the request that made it';
COMMENT ON COLUMN purge_jobs.traceparent IS 'custody=ledger; Its own trace, shared by every worker that takes it';
COMMENT ON COLUMN purge_jobs.created_at IS 'custody=ledger; When it was accepted';
COMMENT ON COLUMN purge_jobs.committed_at IS 'custody=ledger; When its receipt was written';
COMMENT ON COLUMN purge_jobs.lease_owner IS 'custody=ledger; The process that works on it';
COMMENT ON COLUMN purge_jobs.lease_until IS 'custody=ledger; Until when nobody else takes it';
COMMENT ON COLUMN purge_jobs.epoch IS 'custody=ledger; Grows with every taking, over all jobs of one subject';

CREATE TABLE purge_steps (
    purge_id uuid NOT NULL REFERENCES purge_jobs,
    custodian text NOT NULL,
    step text NOT NULL CHECK (step IN ('freeze', 'inventory', 'erase', 'verify', 'commit', 'thaw')),
    epoch bigint NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    at timestamptz NOT NULL,
    PRIMARY KEY (purge_id, custodian, step)
);

COMMENT ON TABLE purge_steps IS 'custody=ledger; Steps that an owner of data has done for a job';
COMMENT ON COLUMN purge_steps.purge_id IS 'custody=ledger; The job';
COMMENT ON COLUMN purge_steps.custodian IS 'custody=ledger; The service';
COMMENT ON COLUMN purge_steps.step IS 'custody=ledger; The step';
COMMENT ON COLUMN purge_steps.epoch IS 'custody=ledger; Epoch of the worker that asked';
COMMENT ON COLUMN purge_steps.digest IS 'custody=ledger; SHA-256 of the encoded answer';
COMMENT ON COLUMN purge_steps.at IS 'custody=ledger; When: of a read-back by the owner''s clock, otherwise by ours';

CREATE TABLE external_objects (
    purge_id uuid NOT NULL REFERENCES purge_jobs,
    custodian text NOT NULL,
    kind text NOT NULL,
    provider text NOT NULL,
    object_id text NOT NULL,
    outcome text CHECK (outcome IN ('deleted', 'already_gone', 'transient', 'permanent')),
    code text NOT NULL DEFAULT '',
    listed_at timestamptz NOT NULL,
    settled_at timestamptz,
    PRIMARY KEY (purge_id, custodian, kind, provider, object_id)
);

COMMENT ON TABLE external_objects IS 'custody=session; What a subject has outside Postgres, copied before anything is deleted';
COMMENT ON COLUMN external_objects.purge_id IS 'custody=session; The job that deletes it';
COMMENT ON COLUMN external_objects.custodian IS 'custody=session; The service that owns it';
COMMENT ON COLUMN external_objects.kind IS 'custody=session; What it is, as docker.volume';
COMMENT ON COLUMN external_objects.provider IS 'custody=session; Who keeps it';
COMMENT ON COLUMN external_objects.object_id IS 'custody=session; Its id there';
COMMENT ON COLUMN external_objects.outcome IS 'custody=session; What became of it';
COMMENT ON COLUMN external_objects.code IS 'custody=session; Why it is still there';
COMMENT ON COLUMN external_objects.listed_at IS 'custody=session; When it was copied here';
COMMENT ON COLUMN external_objects.settled_at IS 'custody=session; When it was known to be gone';

CREATE TABLE dead_letters (
    dead_letter_id uuid PRIMARY KEY,
    purge_id uuid NOT NULL REFERENCES purge_jobs,
    custodian text NOT NULL,
    kind text NOT NULL,
    provider text NOT NULL,
    object_id text,
    code text NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolved_by text,
    CONSTRAINT dead_letters_resolved CHECK ((resolved_at IS NULL) = (resolved_by IS NULL)),
    CONSTRAINT dead_letters_named CHECK (object_id IS NOT NULL OR resolved_at IS NOT NULL)
);

-- However often a job meets it, one thing that cannot be deleted is one letter.
CREATE UNIQUE INDEX dead_letters_unresolved ON dead_letters (purge_id, custodian, provider, kind, object_id)
    WHERE resolved_at IS NULL;

COMMENT ON TABLE dead_letters IS 'custody=ledger; What could not be deleted; an unresolved one keeps its job from going on';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'custody=ledger; The letter';
COMMENT ON COLUMN dead_letters.purge_id IS 'custody=ledger; The job';
COMMENT ON COLUMN dead_letters.custodian IS 'custody=ledger; The service that could not delete it';
COMMENT ON COLUMN dead_letters.kind IS 'custody=ledger; What it is';
COMMENT ON COLUMN dead_letters.provider IS 'custody=ledger; Who keeps it';
COMMENT ON COLUMN dead_letters.object_id IS 'custody=session; Its id there; null once the subject is erased';
COMMENT ON COLUMN dead_letters.code IS 'custody=ledger; Why it cannot be deleted';
COMMENT ON COLUMN dead_letters.created_at IS 'custody=ledger; When it was first met';
COMMENT ON COLUMN dead_letters.resolved_at IS 'custody=ledger; When an operator settled it';
COMMENT ON COLUMN dead_letters.resolved_by IS 'custody=ledger; Id of that operator''s token';

CREATE TABLE holds (
    hold_id uuid PRIMARY KEY,
    subject_kind subject_kind NOT NULL,
    subject_hash bytea NOT NULL CHECK (octet_length(subject_hash) = 32),
    basis text NOT NULL CHECK (basis IN ('legal_claim', 'tax_record', 'fraud_investigation')),
    reference text NOT NULL,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    released_at timestamptz,
    released_by text,
    CONSTRAINT holds_end_after_they_begin CHECK (ends_at > set_at),
    CONSTRAINT holds_released CHECK ((released_at IS NULL) = (released_by IS NULL))
);

CREATE INDEX holds_standing ON holds (subject_hash) WHERE released_at IS NULL;

COMMENT ON TABLE holds IS 'custody=ledger; Subjects that must not be erased for now, by hash; a hold on an account covers its sessions';
COMMENT ON COLUMN holds.hold_id IS 'custody=ledger; The hold';
COMMENT ON COLUMN holds.subject_kind IS 'custody=ledger; Session or account';
COMMENT ON COLUMN holds.subject_hash IS 'custody=ledger; SHA-256 of the subject''s kind and id';
COMMENT ON COLUMN holds.basis IS 'custody=ledger; What allows to keep it';
COMMENT ON COLUMN holds.reference IS 'custody=ledger; Number of the case, not its content';
COMMENT ON COLUMN holds.set_by IS 'custody=ledger; Id of the operator''s token';
COMMENT ON COLUMN holds.set_at IS 'custody=ledger; When it was set';
COMMENT ON COLUMN holds.ends_at IS 'custody=ledger; When it ends by itself';
COMMENT ON COLUMN holds.released_at IS 'custody=ledger; When it was ended before';
COMMENT ON COLUMN holds.released_by IS 'custody=ledger; Id of the token of the operator who ended it';

CREATE TABLE receipts (
    seq bigint PRIMARY KEY CHECK (seq > 0),
    purge_id uuid NOT NULL UNIQUE REFERENCES purge_jobs,
    subject_kind subject_kind NOT NULL,
    subject_hash bytea NOT NULL CHECK (octet_length(subject_hash) = 32),
    trigger purge_trigger NOT NULL,
    epoch bigint NOT NULL,
    rounds integer NOT NULL,
    requested_at timestamptz NOT NULL,
    committed_at timestamptz NOT NULL,
    -- Unique: a chain does not fork.
    previous_hash bytea NOT NULL UNIQUE CHECK (octet_length(previous_hash) = 32),
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32)
);

CREATE TABLE receipt_custodians (
    seq bigint NOT NULL REFERENCES receipts,
    custodian text NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    verified_at timestamptz NOT NULL,
    PRIMARY KEY (seq, custodian)
);

COMMENT ON TABLE receipts IS 'custody=ledger; Proof of what is gone, each bound to the one before it';
COMMENT ON COLUMN receipts.seq IS 'custody=ledger; Place in the ledger, from 1, without gaps';
COMMENT ON COLUMN receipts.purge_id IS 'custody=ledger; The job';
COMMENT ON COLUMN receipts.subject_kind IS 'custody=ledger; Session or account';
COMMENT ON COLUMN receipts.subject_hash IS 'custody=ledger; SHA-256 of the subject''s kind and id';
COMMENT ON COLUMN receipts.trigger IS 'custody=ledger; Why it was erased';
COMMENT ON COLUMN receipts.epoch IS 'custody=ledger; Last epoch of the job';
COMMENT ON COLUMN receipts.rounds IS 'custody=ledger; Read-backs that found something';
COMMENT ON COLUMN receipts.requested_at IS 'custody=ledger; When the job was accepted';
COMMENT ON COLUMN receipts.committed_at IS 'custody=ledger; When it was committed';
COMMENT ON COLUMN receipts.previous_hash IS 'custody=ledger; Hash of the receipt before; zeros for the first';
COMMENT ON COLUMN receipts.hash IS 'custody=ledger; SHA-256 over everything else';
COMMENT ON TABLE receipt_custodians IS 'custody=ledger; What each owner of data read back';
COMMENT ON COLUMN receipt_custodians.seq IS 'custody=ledger; The receipt';
COMMENT ON COLUMN receipt_custodians.custodian IS 'custody=ledger; The service';
COMMENT ON COLUMN receipt_custodians.digest IS 'custody=ledger; SHA-256 of its encoded answer';
COMMENT ON COLUMN receipt_custodians.verified_at IS 'custody=ledger; When it read, by its own clock';

-- Ledgers are written once.
DO $$
BEGIN
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON receipts, receipt_custodians FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
    EXECUTE format('REVOKE DELETE, TRUNCATE ON purge_jobs, dead_letters, holds FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
END
$$;
