-- Takes one token from the bucket KEYS[1]; every replica of the gateway counts in the same one, on Redis's clock.
-- ARGV: tokens a second, most tokens. Answers {1 if taken, whole tokens left, milliseconds until the next token}.
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(bucket[1]) or burst, tonumber(bucket[2]) or now
-- A clock that was set back gives nothing, and takes nothing away.
tokens = math.min(burst, tokens + math.max(0, now - at) * rate / 1000)

local taken, wait = 0, 0
if tokens >= 1 then
  taken, tokens = 1, tokens - 1
else
  wait = math.ceil((1 - tokens) * 1000 / rate)
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.3f', tokens), 'at', string.format('%.0f', now))
-- A bucket that has had time to fill up says nothing any more.
redis.call('PEXPIRE', KEYS[1], math.ceil(burst * 1000 / rate) + 1000)
return {taken, math.floor(tokens), wait}
