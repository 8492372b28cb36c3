-- Fence of the tasks of which one replica at a time runs a pass.

CREATE TABLE leases (
    name text PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch > 0),
    holder uuid NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE leases IS 'custody=system; Who may write as which singleton; the right to try comes from Redis';
COMMENT ON COLUMN leases.name IS 'custody=system; The singleton, as sandbox.reconcile/<engine>';
COMMENT ON COLUMN leases.epoch IS 'custody=system; Grows with every holder';
COMMENT ON COLUMN leases.holder IS 'custody=system; Token of the holder';
COMMENT ON COLUMN leases.taken_at IS 'custody=system; When it took over';
