-- Release permits, note who waits, and reserve what is free for those who waited longest.
-- ARGV: holder, permits that it releases {id of a message, name}, those who wait {id, name, since when (s)}, limits
-- {name, how many permits there are}.
-- RETURNS: who is to be woken, {id of a message, name, since when it waits (s)}.
-- Keeps: no more than so many are taken, those that are reserved among them. Done again it releases nothing more.
local holder, released, those_who_wait, limits = unpack(args)
for _, permit in ipairs(released) do
    local id, name = unpack(permit)
    redis.call('ZREM', permits_key(name), id .. '\n' .. holder)
    if holder == '' then
        redis.call('ZREM', waiting_key(name), id)
    end
end
for _, permit in ipairs(those_who_wait) do
    local id, name, since = unpack(permit)
    redis.call('ZADD', waiting_key(name), string.format('%.3f', since), id)
    redis.call('PEXPIRE', waiting_key(name), WAITING_KEPT)
end
local woken = {}
for _, each in ipairs(limits) do
    local name, limit = unpack(each)
    if redis.call('EXISTS', waiting_key(name)) == 1 then
        release_ended(name)
        local key = permits_key(name)
        local free = limit - redis.call('ZCARD', key)
        if free > 0 then -- some of the first may have been woken already: not more than there are permits
            local first = redis.call('ZRANGE', waiting_key(name), 0, limit - 1, 'WITHSCORES')
            for i = 1, #first, 2 do
                if free > 0 and not redis.call('ZSCORE', key, first[i] .. '\n') then
                    take_permit(name, first[i], '', RESERVED)
                    woken[#woken + 1] = {first[i], name, first[i + 1]}
                    free = free - 1
                end
            end
        end
    end
end
return woken
