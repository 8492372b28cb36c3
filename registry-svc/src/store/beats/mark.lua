-- Ends a seeding.
-- ARGV: 1 run id at the beginning of the seeding  2 random
-- Returns 1 if this Redis is seeded now, 0 if it replaced the one in which the seeding began.

local id = run_id()
if ARGV[1] ~= id then return 0 end
if not is_seeded() then redis.call('SET', KEYS[1], ARGV[2] .. ':' .. id) end
return 1
