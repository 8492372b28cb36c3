-- ListPurges filters an account's jobs by state: without this index a page walks all of the account's jobs.
CREATE INDEX purge_jobs_by_state ON purge_jobs (account_id, state, purge_id DESC);
