-- Included at the top of every script about beats.
--
-- KEYS: 1 generation  2 deadlines  3 snapshots  4 replica of the last beat  5 replicas  6 last sweep
--       7 exists while a probation runs  8 exists for some time after a probation for a mass silence began
--
-- The generation key is "<random>:<run id of this Redis>", written when a seeding ends. If it is missing, or
-- names the run id of another Redis, the other keys are incomplete and the caller must seed first. Times are
-- those of Redis's clock.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

local function is_seeded()
  local mark = redis.call('GET', KEYS[1])
  if not mark then return false end
  local id = run_id()
  return string.sub(mark, -string.len(id)) == id
end

local function incarnation_of(snapshot)
  return tonumber(string.match(snapshot, '^%d+')) or 0
end

-- Stores a snapshot unless the stored one has a newer incarnation.
local function keep_newer(agent, snapshot)
  local held = redis.call('HGET', KEYS[3], agent)
  if not held or incarnation_of(held) <= incarnation_of(snapshot) then
    redis.call('HSET', KEYS[3], agent, snapshot)
  end
end
