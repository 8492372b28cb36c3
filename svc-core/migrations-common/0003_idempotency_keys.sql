-- What a repeated request is answered with: written in the transaction of the first one's effect.

CREATE TABLE idempotency_keys (
    account_id uuid NOT NULL,
    method text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    result jsonb NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, method, key)
);

CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

COMMENT ON TABLE idempotency_keys IS 'custody=account; Requests of the last 24 h that must not take effect twice';
COMMENT ON COLUMN idempotency_keys.account_id IS 'custody=account; Whose key it is; nil for operators';
COMMENT ON COLUMN idempotency_keys.method IS 'custody=account; The RPC';
COMMENT ON COLUMN idempotency_keys.key IS 'custody=account; The key, as the caller chose it';
COMMENT ON COLUMN idempotency_keys.request_hash IS 'custody=account; SHA-256 of the request';
COMMENT ON COLUMN idempotency_keys.result IS 'custody=account; Ids of what it made';
COMMENT ON COLUMN idempotency_keys.expires_at IS 'custody=account; When the key may be used anew';
