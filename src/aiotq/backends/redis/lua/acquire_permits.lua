-- Take permits.
-- ARGV: holder, lease (ms), permits {id of a message, name, how many there are, whether its holder died}.
-- RETURNS: for each 0, or how many wait with it.
-- Keeps: no more than so many are taken; who was woken for one has it.
local holder, lease, permits = unpack(args)
local answers, is_clear = {}, {}
for i, permit in ipairs(permits) do
    local id, name, limit, is_again = unpack(permit)
    local key = permits_key(name)
    local is_free = redis.call('EXISTS', key) == 0 -- nearly always, where the permit is that of a key
    if not is_free and not is_clear[name] then
        release_ended(name)
        is_clear[name] = true
    end
    if is_again then
        for _, taken in ipairs(redis.call('ZRANGE', key, 0, -1)) do
            if string.sub(taken, 1, #id + 1) == id .. '\n' then
                redis.call('ZREM', key, taken)
            end
        end
    end
    local may = is_free
        or redis.call('ZREM', key, id .. '\n') == 1
        or redis.call('ZSCORE', key, id .. '\n' .. holder)
    if may or redis.call('ZCARD', key) < limit then
        if is_free then
            redis.call('ZADD', key, string.format('%.3f', now + lease), id .. '\n' .. holder)
            redis.call('PEXPIRE', key, milliseconds(lease))
        else
            take_permit(name, id, holder, lease)
        end
        redis.call('ZREM', waiting_key(name), id)
        answers[i] = 0
    else
        answers[i] = redis.call('ZCARD', waiting_key(name)) + 1
    end
end
return answers
