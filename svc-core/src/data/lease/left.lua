-- KEYS[1] lease, ARGV[1] token. Returns the milliseconds until the lease expires if the key has the token,
-- otherwise -1.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PTTL', KEYS[1])
end
return -1
