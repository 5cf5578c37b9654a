-- Free seats, remember who waits, and keep what is free for those who waited longest.
-- ARGV: holder, seats that it left {id of a message, name}, those who wait {id, name, since when (s)}, limits {name, how
-- many seats there are}.
-- RETURNS: what is kept, {id of a message, name, since when it waits (s)}.
-- Keeps: no more than so many sit, those for whom a seat is kept among them. Done again it frees nothing more.
local holder, left, seeking, limits = unpack(args)
for _, seat in ipairs(left) do
    local id, name = unpack(seat)
    redis.call('ZREM', seats_key(name), id .. '\n' .. holder)
    if holder == '' then
        redis.call('ZREM', seekers_key(name), id)
    end
end
for _, seat in ipairs(seeking) do
    local id, name, since = unpack(seat)
    redis.call('ZADD', seekers_key(name), string.format('%.3f', since), id)
    redis.call('PEXPIRE', seekers_key(name), SEEKING_KEPT)
end
local told = {}
for _, each in ipairs(limits) do
    local name, limit = unpack(each)
    if redis.call('EXISTS', seekers_key(name)) == 1 then
        free_what_ended(name)
        local key = seats_key(name)
        local free = limit - redis.call('ZCARD', key)
        if free > 0 then -- some of the first may have been told already: not more than there are seats
            local first = redis.call('ZRANGE', seekers_key(name), 0, limit - 1, 'WITHSCORES')
            for i = 1, #first, 2 do
                if free > 0 and not redis.call('ZSCORE', key, first[i] .. '\n') then
                    take_seat(name, first[i], '', SEAT_KEPT)
                    told[#told + 1] = {first[i], name, first[i + 1]}
                    free = free - 1
                end
            end
        end
    end
end
return told
