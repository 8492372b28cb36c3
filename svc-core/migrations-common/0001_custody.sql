-- Who may still be written: one row for each subject this service knows, kept for ever.
--
-- Every table and column of Steward says in its comment what an erasure does to it: "custody=<class>; text".
--   session  belongs to one session and goes with it
--   account  belongs to one account and goes with it
--   ledger   stays after an erasure and holds no personal data
--   system   belongs to no subject

CREATE TYPE subject_kind AS ENUM ('account', 'session');
CREATE TYPE custody_state AS ENUM ('live', 'frozen', 'erasing', 'erased');

CREATE TABLE custody (
    kind subject_kind NOT NULL,
    subject_id uuid NOT NULL,
    account_id uuid NOT NULL,
    state custody_state NOT NULL DEFAULT 'live',
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    purge_id uuid,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, subject_id),
    CONSTRAINT custody_account_owns_itself CHECK (kind <> 'account' OR account_id = subject_id),
    CONSTRAINT custody_has_a_reason CHECK (state = 'live' OR purge_id IS NOT NULL)
);

CREATE INDEX custody_by_account ON custody (account_id, kind, subject_id);

COMMENT ON TABLE custody IS 'custody=ledger; One row per subject: may it be written, and who erases it';
COMMENT ON COLUMN custody.kind IS 'custody=ledger; Account or session; in the order in which rows are locked';
COMMENT ON COLUMN custody.subject_id IS 'custody=ledger; Id of the account or session';
COMMENT ON COLUMN custody.account_id IS 'custody=ledger; Id of the account that owns it';
COMMENT ON COLUMN custody.state IS 'custody=ledger; Only a live subject is written; erased is final';
COMMENT ON COLUMN custody.epoch IS 'custody=ledger; Highest epoch of a purge seen; lower ones are refused';
COMMENT ON COLUMN custody.purge_id IS 'custody=ledger; The purge that has it, or had it last';
COMMENT ON COLUMN custody.changed_at IS 'custody=ledger; When state, epoch or purge last changed';

CREATE TABLE custody_steps (
    purge_id uuid NOT NULL,
    step text NOT NULL,
    kind subject_kind NOT NULL,
    subject_id uuid NOT NULL,
    epoch bigint NOT NULL,
    reply bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (purge_id, step),
    FOREIGN KEY (kind, subject_id) REFERENCES custody (kind, subject_id)
);

COMMENT ON TABLE custody_steps IS 'custody=ledger; Answers given to a purge, repeated word for word';
COMMENT ON COLUMN custody_steps.purge_id IS 'custody=ledger; The purge';
COMMENT ON COLUMN custody_steps.step IS 'custody=ledger; The step that was answered';
COMMENT ON COLUMN custody_steps.kind IS 'custody=ledger; Kind of its subject';
COMMENT ON COLUMN custody_steps.subject_id IS 'custody=ledger; Id of its subject';
COMMENT ON COLUMN custody_steps.epoch IS 'custody=ledger; Epoch of the call that was answered first';
COMMENT ON COLUMN custody_steps.reply IS 'custody=ledger; The encoded answer: counts and object ids, no content';
COMMENT ON COLUMN custody_steps.at IS 'custody=ledger; When it was given';

-- A tombstone is for ever. An answer is never changed; that of Erase is withdrawn when Verify finds residue.
DO $$
BEGIN
    EXECUTE format('REVOKE DELETE, TRUNCATE ON custody FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
    EXECUTE format('REVOKE UPDATE, TRUNCATE ON custody_steps FROM %I', regexp_replace(current_user, '_owner$', ''));
END
$$;
