-- Takes the beats of up to 256 agents.
-- ARGV: 1 replica  2 milliseconds until an agent is silent  3… agents
-- Returns false if Redis must be seeded first, else {number of agents with a deadline, snapshots}, with one
-- snapshot, or false, for each agent.

if not is_seeded() then return false end
local now = now_ms()
local deadline = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[5], now, ARGV[1])

local deadlines, replicas, agents = {}, {}, {}
for i = 3, #ARGV do
  agents[#agents + 1] = ARGV[i]
  deadlines[#deadlines + 1] = deadline
  deadlines[#deadlines + 1] = ARGV[i]
  replicas[#replicas + 1] = ARGV[i]
  replicas[#replicas + 1] = ARGV[1]
end
redis.call('ZADD', KEYS[2], unpack(deadlines))
redis.call('HSET', KEYS[4], unpack(replicas))
return {redis.call('ZCARD', KEYS[2]), redis.call('HMGET', KEYS[3], unpack(agents))}
