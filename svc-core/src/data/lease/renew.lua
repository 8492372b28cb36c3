-- KEYS[1] lease, ARGV[1] token, ARGV[2] milliseconds. Renews the lease if the key has the token: returns 1.
-- Otherwise returns 0.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
