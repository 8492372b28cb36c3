-- How many turns of an account run.
CREATE INDEX turns_running_by_account ON turns (account_id) WHERE status = 'running';
