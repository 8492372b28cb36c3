-- Takes one token from the bucket KEYS[1], which every replica of the gateway shares, by the clock of Redis.
-- ARGV: tokens added each second, maximum tokens. Returns {1 if taken, whole tokens left, milliseconds until
-- the next}.
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(bucket[1]) or burst, tonumber(bucket[2]) or now
-- If the clock was set back, no token is added and none is removed.
tokens = math.min(burst, tokens + math.max(0, now - at) * rate / 1000)

local taken, wait = 0, 0
if tokens >= 1 then
  taken, tokens = 1, tokens - 1
else
  wait = math.ceil((1 - tokens) * 1000 / rate)
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.3f', tokens), 'at', string.format('%.0f', now))
-- After this time the bucket is full, which an absent key means too.
redis.call('PEXPIRE', KEYS[1], math.ceil(burst * 1000 / rate) + 1000)
return {taken, math.floor(tokens), wait}
