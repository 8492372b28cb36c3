-- A letter is settled by an operator, or by the job itself if the object could be deleted after all.
COMMENT ON COLUMN dead_letters.resolved_at IS 'custody=ledger; When it was settled';
COMMENT ON COLUMN dead_letters.resolved_by IS 'custody=ledger; Id of the operator''s token, or purge-svc if the object could be deleted after all';
