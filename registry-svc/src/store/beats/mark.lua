-- Ends a seeding. ARGV: 1 run id at its beginning  2 random
-- Answers whether this Redis counts as seeded; if not, it is another one by now.

local id = run_id()
if ARGV[1] ~= id then return 0 end
if not is_seeded() then redis.call('SET', KEYS[1], ARGV[2] .. ':' .. id) end
return 1
