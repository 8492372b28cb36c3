-- A key may say anything, so one whose request had its effect in a session goes with that session.

ALTER TABLE idempotency_keys ADD COLUMN session_id uuid;

CREATE INDEX idempotency_keys_by_session ON idempotency_keys (session_id) WHERE session_id IS NOT NULL;

COMMENT ON COLUMN idempotency_keys.session_id IS 'custody=account; The session that the effect belongs to, if any';
