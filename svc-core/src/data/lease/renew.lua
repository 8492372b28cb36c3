-- KEYS[1] lease, ARGV[1] token, ARGV[2] milliseconds. Prolongs the lease if the token is there.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
