-- Lists a page of agents with a deadline in the past.
-- ARGV: 1 page size  2 agents to skip  3 milliseconds for which a replica is connected after its announcement
--       4 milliseconds after which it is gone
-- Returns {agents scanned, agent, snapshot or '', …}. An agent is left out while the replica of its last beat
-- is neither connected nor gone: that replica may take beats that Redis does not see.

local now = now_ms()
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', ARGV[2], ARGV[1])
local answer = {#found}
for _, agent in ipairs(found) do
  local replica = redis.call('HGET', KEYS[4], agent)
  local seen = replica and redis.call('ZSCORE', KEYS[5], replica)
  local age = seen and now - tonumber(seen)
  if not age or age <= tonumber(ARGV[3]) or age >= tonumber(ARGV[4]) then
    answer[#answer + 1] = agent
    answer[#answer + 1] = redis.call('HGET', KEYS[3], agent) or ''
  end
end
return answer
