-- What may still run when its turn ends is told to stop, and what came of that is recorded.

CREATE TYPE call_stop AS ENUM ('ended', 'never_ran', 'in_doubt', 'unanswered');

ALTER TABLE tool_calls
    ADD COLUMN stop_due_at timestamptz,
    ADD COLUMN stop_tries  integer NOT NULL DEFAULT 0,
    ADD COLUMN stop        call_stop,
    ADD CONSTRAINT tool_calls_stop_once CHECK (stop IS NULL OR stop_due_at IS NULL);
CREATE INDEX tool_calls_to_stop ON tool_calls (stop_due_at) WHERE stop_due_at IS NOT NULL;
COMMENT ON COLUMN tool_calls.stop_due_at IS 'custody=session; When its sandbox is told next to stop it';
COMMENT ON COLUMN tool_calls.stop_tries IS 'custody=session; Times its sandbox was, or may have been, told';
COMMENT ON COLUMN tool_calls.stop IS 'custody=session; What came of telling it';
