-- Takes from the run role the right to write the list of migrations, which the schema's default privileges
-- gave it. It may still read the list.
DO $$
BEGIN
    EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON _sqlx_migrations FROM %I',
                   regexp_replace(current_user, '_owner$', ''));
    EXECUTE format('GRANT SELECT ON _sqlx_migrations TO %I', regexp_replace(current_user, '_owner$', ''));
    COMMENT ON TABLE _sqlx_migrations IS 'custody=system; Migrations of this schema that ran';
    COMMENT ON COLUMN _sqlx_migrations.version IS 'custody=system; Number of the migration';
    COMMENT ON COLUMN _sqlx_migrations.description IS 'custody=system; Name of its file';
    COMMENT ON COLUMN _sqlx_migrations.installed_on IS 'custody=system; When it ran';
    COMMENT ON COLUMN _sqlx_migrations.success IS 'custody=system; Whether it is whole';
    COMMENT ON COLUMN _sqlx_migrations.checksum IS 'custody=system; Of its text';
    COMMENT ON COLUMN _sqlx_migrations.execution_time IS 'custody=system; Nanoseconds it took';
END
$$;
