-- Agents that are alive as far as Postgres knows: each gets time to be heard of.
-- ARGV: 1 run id at the beginning of the seeding, '' at first  2 milliseconds  3 '1' to overrule what is here
--       then pairs of agent and snapshot
-- Answers the run id; another than ARGV[1] means that it begins anew.

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
