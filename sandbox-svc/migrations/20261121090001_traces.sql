-- Makes what a session's sandbox costs part of the trace that waits for it.
ALTER TABLE sandboxes ADD COLUMN traceparent text;
COMMENT ON COLUMN sandboxes.traceparent IS 'custody=session; Trace context of whoever asked for it; none for the pool';
