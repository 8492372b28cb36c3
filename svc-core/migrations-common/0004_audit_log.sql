-- One row for each irreversible act, written with the transition that commits it.

CREATE TABLE audit_log (
    act text NOT NULL,
    subject_hash bytea NOT NULL CHECK (octet_length(subject_hash) = 32),
    generation bigint NOT NULL,
    principal_id text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (act, subject_hash, generation)
);

COMMENT ON TABLE audit_log IS 'custody=ledger; Irreversible acts, once each, without personal data';
COMMENT ON COLUMN audit_log.act IS 'custody=ledger; What was done, as session.tombstoned';
COMMENT ON COLUMN audit_log.subject_hash IS 'custody=ledger; SHA-256 of kind and id of what it was done to';
COMMENT ON COLUMN audit_log.generation IS 'custody=ledger; Generation of the record that the act made';
COMMENT ON COLUMN audit_log.principal_id IS 'custody=ledger; Who did it, as an id';
COMMENT ON COLUMN audit_log.at IS 'custody=ledger; When';

DO $$
BEGIN
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON audit_log FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
END
$$;
