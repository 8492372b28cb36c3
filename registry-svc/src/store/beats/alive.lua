-- A replica says that it still hears agents, also when none beats. ARGV: 1 replica  2 milliseconds after which
-- others are forgotten.

local now = now_ms()
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[2]))
return 0
