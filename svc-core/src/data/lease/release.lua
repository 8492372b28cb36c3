-- KEYS[1] lease, ARGV[1] token. Deletes the lease and returns 1 if the key has the token. Otherwise returns
-- 0.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
