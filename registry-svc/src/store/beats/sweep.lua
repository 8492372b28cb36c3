-- Begins a sweep.
-- ARGV: 1 period in milliseconds  2 probation in milliseconds
--       3 number and 4 share of silent agents; if both are exceeded, it is a mass silence
-- Returns {'unseeded' | 'probation' | 'mass_silence' | 'proceed', silent agents, all agents}.

if not is_seeded() then return {'unseeded', 0, 0} end
local now = now_ms()
local period, probation = tonumber(ARGV[1]), tonumber(ARGV[2])

-- After a pause between sweeps, beats may have been lost for the same reason as the sweeps.
local last = redis.call('GET', KEYS[6])
redis.call('SET', KEYS[6], now)
if not last or now - tonumber(last) > 2 * period then
  redis.call('SET', KEYS[7], '1', 'PX', probation)
end
if redis.call('EXISTS', KEYS[7]) == 1 then return {'probation', 0, 0} end

local silent = redis.call('ZCOUNT', KEYS[2], '-inf', now)
local all = redis.call('ZCARD', KEYS[2])
if silent <= tonumber(ARGV[3]) or silent <= all * tonumber(ARGV[4]) then
  return {'proceed', silent, all}
end

-- A mass silence is more likely a fault of the services than of the agents: all agents get one probation.
-- Agents that are silent after it are marked offline.
if redis.call('GET', KEYS[8]) then return {'proceed', silent, all} end
redis.call('SET', KEYS[8], '1', 'PX', probation + 10 * period)
redis.call('SET', KEYS[7], '1', 'PX', probation)
return {'mass_silence', silent, all}
