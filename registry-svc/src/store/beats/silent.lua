-- Silent agents, a page of them. ARGV: 1 page size  2 how many to skip  3 a replica is fresh for so long
-- 4 a replica is gone after so long  (times in milliseconds)
-- Answers {how many were looked at, agent, snapshot or '', …}. An agent whose last beat came through a replica that
-- is not fresh may be heard there; it counts as silent only when it had the time to go elsewhere.

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
