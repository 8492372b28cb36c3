-- How many an account's agents have on their way.
CREATE INDEX relay_lanes_held_by_account ON relay_lanes (account_id) WHERE lease_owner IS NOT NULL;
