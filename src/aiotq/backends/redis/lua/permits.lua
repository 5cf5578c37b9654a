-- Seats of tasks of which only so many run at once. A library: scripts on seats include it after `results`.
--
-- {base}:seats:{name}      sorted set by the end of their leases (ms): id of a message, a line feed, its holder (empty:
--                          it is kept for the message, which was told of it)
-- {base}:seekers:{name}    sorted set of the messages that wait, by the time since when they do (s)
local SEAT_KEPT = 5000
local SEEKING_KEPT = 10800000

local function seats_key(name)
    return base .. ':seats:' .. name
end

local function seekers_key(name)
    return base .. ':seekers:' .. name
end

local function free_what_ended(name)
    redis.call('ZREMRANGEBYSCORE', seats_key(name), '-inf', string.format('%.3f', now))
end

local function take_seat(name, id, holder, lasts)
    local key = seats_key(name)
    redis.call('ZADD', key, string.format('%.3f', now + lasts), id .. '\n' .. holder)
    local left = redis.call('PTTL', key)
    if left < lasts then
        redis.call('PEXPIRE', key, milliseconds(lasts))
    end
end
