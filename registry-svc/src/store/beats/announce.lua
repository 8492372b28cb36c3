-- Announces that a replica takes beats, also while no agent beats.
-- ARGV: 1 replica  2 milliseconds after which a silent replica is deleted

local now = now_ms()
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[2]))
return 0
