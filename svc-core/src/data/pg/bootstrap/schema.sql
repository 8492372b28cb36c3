-- Creates the schema of one service in this database, and grants its two roles their rights on it.
DO $$
DECLARE
    schema text := current_setting('steward.service');
    runner text := 'steward_' || schema;
    owner text := runner || '_owner';
    name text;
BEGIN
    -- Only Steward's roles may connect, and no role creates tables outside the schema of a service.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE ALL ON SCHEMA public FROM PUBLIC;

    EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', schema, owner);
    EXECUTE format('ALTER SCHEMA %I OWNER TO %I', schema, owner);
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', schema);
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %I', schema, runner);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, runner);

    FOREACH name IN ARRAY ARRAY[runner, owner] LOOP
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', name, current_database(), schema);
    END LOOP;

    -- Applies to tables that the owner role creates later: the run role may read and write their rows. The
    -- migration that creates a ledger revokes UPDATE and DELETE.
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I '
                   'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', owner, schema, runner);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I '
                   'GRANT USAGE ON SEQUENCES TO %I', owner, schema, runner);
END
$$;
