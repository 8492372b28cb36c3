-- Where an engine's run directories are: every replica that serves it must mean the same.

ALTER TABLE engines ADD COLUMN run_dir text;
COMMENT ON COLUMN engines.run_dir IS 'custody=system; Directory of its run directories, on its host';
