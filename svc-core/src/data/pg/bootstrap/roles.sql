-- Creates the two roles of one service. Roles belong to the cluster, so they may exist from another database.
DO $$
DECLARE
    runner text := 'steward_' || current_setting('steward.service');
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[runner, runner || '_owner'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I', name);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            -- A concurrent set-up created it.
            NULL;
        END;
        EXECUTE format(
            'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name);
    END LOOP;
END
$$;
