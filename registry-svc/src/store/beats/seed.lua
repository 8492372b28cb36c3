-- Writes agents that are alive in Postgres, and gives each of them time to beat.
-- ARGV: 1 run id at the beginning of the seeding, '' on the first page  2 milliseconds
--       3 '1' to extend deadlines that are here already  then pairs of agent and snapshot
-- Returns the run id; if it differs from ARGV[1], the seeding must begin again.

local id = run_id()
if ARGV[1] ~= '' and ARGV[1] ~= id then return id end
local deadline = now_ms() + tonumber(ARGV[2])
for i = 4, #ARGV, 2 do
  if ARGV[3] == '1' then
    redis.call('ZADD', KEYS[2], 'GT', deadline, ARGV[i])
  else
    redis.call('ZADD', KEYS[2], 'NX', deadline, ARGV[i])
  end
  keep_newer(ARGV[i], ARGV[i + 1])
end
return id
