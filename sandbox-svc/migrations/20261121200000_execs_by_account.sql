-- What an account's erasure deletes.
CREATE INDEX execs_by_account ON execs (account_id);
