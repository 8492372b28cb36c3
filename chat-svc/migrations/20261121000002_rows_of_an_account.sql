-- What an erasure of an account looks for, however large the tables are.
CREATE INDEX messages_by_account ON messages (account_id);
CREATE INDEX tool_calls_by_account ON tool_calls (account_id);
