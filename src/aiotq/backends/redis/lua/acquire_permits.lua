-- Take permits.
-- ARGV: holder, lease (ms), permits {id of a message, name, how many there are, whether its holder died}.
-- RETURNS: for each 0, or how many wait with it.
-- Keeps: no more than so many are taken; who was woken for one has it.
local holder, lease, permits = unpack(args)
local answers, is_clear = {}, {}
for i, permit in ipairs(permits) do
    local id, name, limit, is_again = unpack(permit)
    if not is_clear[name] then
        release_ended(name)
        is_clear[name] = true
    end
    local key = permits_key(name)
    if is_again then
        for _, taken in ipairs(redis.call('ZRANGE', key, 0, -1)) do
            if string.sub(taken, 1, #id + 1) == id .. '\n' then
                redis.call('ZREM', key, taken)
            end
        end
    end
    local may = redis.call('ZREM', key, id .. '\n') == 1 or redis.call('ZSCORE', key, id .. '\n' .. holder)
    if may or redis.call('ZCARD', key) < limit then
        take_permit(name, id, holder, lease)
        redis.call('ZREM', waiting_key(name), id)
        answers[i] = 0
    else
        answers[i] = redis.call('ZCARD', waiting_key(name)) + 1
    end
end
return answers
