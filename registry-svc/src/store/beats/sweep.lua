-- Begins a sweep. ARGV: 1 period  2 amnesty  3 largest number  4 largest share of silent agents that is believed
-- at once  (times in milliseconds)
-- Answers {'seed' | 'rest' | 'brake' | 'go', silent agents, all of them}.

if not is_seeded() then return {'seed', 0, 0} end
local now = now_ms()
local period, amnesty = tonumber(ARGV[1]), tonumber(ARGV[2])

-- Nobody looked for a while: beats may have been lost for the same reason.
local last = redis.call('GET', KEYS[6])
redis.call('SET', KEYS[6], now)
if not last or now - tonumber(last) > 2 * period then
  redis.call('SET', KEYS[7], '1', 'PX', amnesty)
end
if redis.call('EXISTS', KEYS[7]) == 1 then return {'rest', 0, 0} end

local silent = redis.call('ZCOUNT', KEYS[2], '-inf', now)
local all = redis.call('ZCARD', KEYS[2])
if silent <= tonumber(ARGV[3]) or silent <= all * tonumber(ARGV[4]) then return {'go', silent, all} end

-- So many at once is rather our fault than theirs. All get one more chance; what is still silent then is believed.
if redis.call('GET', KEYS[8]) then return {'go', silent, all} end
redis.call('SET', KEYS[8], '1', 'PX', amnesty + 10 * period)
redis.call('SET', KEYS[7], '1', 'PX', amnesty)
return {'brake', silent, all}
