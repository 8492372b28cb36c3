-- Stores snapshots that were read from Postgres, and changes deadlines.
-- ARGV: triples of agent, snapshot and the change of the deadline:
--   keep              no change
--   remove_if_passed  removed, unless a beat moved it into the future meanwhile
--   remove            removed
--   <milliseconds>    moved to this long from now, unless it is later already
--   delete            removed, with all other data of the agent

local now = now_ms()
for i = 1, #ARGV, 3 do
  local agent, snapshot, deadline = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if deadline == 'delete' then
    redis.call('HDEL', KEYS[3], agent)
    redis.call('HDEL', KEYS[4], agent)
    redis.call('ZREM', KEYS[2], agent)
  else
    keep_newer(agent, snapshot)
    if deadline == 'remove' then
      redis.call('ZREM', KEYS[2], agent)
    elseif deadline == 'remove_if_passed' then
      local at = redis.call('ZSCORE', KEYS[2], agent)
      if at and tonumber(at) <= now then redis.call('ZREM', KEYS[2], agent) end
    elseif deadline ~= 'keep' then
      redis.call('ZADD', KEYS[2], 'GT', now + tonumber(deadline), agent)
    end
  end
end
return 0
