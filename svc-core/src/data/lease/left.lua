-- KEYS[1] lease, ARGV[1] token. Milliseconds left if the token is there, else -1.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PTTL', KEYS[1])
end
return -1
