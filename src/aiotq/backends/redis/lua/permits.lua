-- Permits of tasks of which only so many run at once. A library: scripts on permits include it after `results`.
--
-- {base}:permits:{name}    sorted set by the end of their leases (ms): id of a message, a line feed, its holder (empty:
--                          it is reserved for the message, which was woken)
-- {base}:waiting:{name}    sorted set of the messages that wait, by the time since when they do (s)
local RESERVED = 5000
local WAITING_KEPT = 10800000

local function permits_key(name)
    return base .. ':permits:' .. name
end

local function waiting_key(name)
    return base .. ':waiting:' .. name
end

local function release_ended(name)
    redis.call('ZREMRANGEBYSCORE', permits_key(name), '-inf', string.format('%.3f', now))
end

local function take_permit(name, id, holder, lasts)
    local key = permits_key(name)
    redis.call('ZADD', key, string.format('%.3f', now + lasts), id .. '\n' .. holder)
    local left = redis.call('PTTL', key)
    if left < lasts then
        redis.call('PEXPIRE', key, milliseconds(lasts))
    end
end
