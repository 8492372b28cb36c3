-- What Postgres says about agents, after it changed there.
-- ARGV: triples of agent, snapshot, and what becomes of its deadline:
--   keep     as it is
--   lapse    goes, unless a beat came meanwhile
--   drop     goes
--   <ms>     is at least so far away
--   forget   goes, with everything else about the agent

local now = now_ms()
for i = 1, #ARGV, 3 do
  local agent, snapshot, deadline = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if deadline == 'forget' then
    redis.call('HDEL', KEYS[3], agent)
    redis.call('HDEL', KEYS[4], agent)
    redis.call('ZREM', KEYS[2], agent)
  else
    keep_newer(agent, snapshot)
    if deadline == 'drop' then
      redis.call('ZREM', KEYS[2], agent)
    elseif deadline == 'lapse' then
      local at = redis.call('ZSCORE', KEYS[2], agent)
      if at and tonumber(at) <= now then redis.call('ZREM', KEYS[2], agent) end
    elseif deadline ~= 'keep' then
      redis.call('ZADD', KEYS[2], 'GT', now + tonumber(deadline), agent)
    end
  end
end
return 0
