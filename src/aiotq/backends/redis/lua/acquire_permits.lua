-- Take seats.
-- ARGV: holder, lease (ms), seats {id of a message, name, how many there are}.
-- RETURNS: for each 0, or how many wait with it.
-- Keeps: no more than so many sit; who was told of a seat has it.
local holder, lease, seats = unpack(args)
local answers, is_clear = {}, {}
for i, seat in ipairs(seats) do
    local id, name, limit = unpack(seat)
    if not is_clear[name] then
        free_what_ended(name)
        is_clear[name] = true
    end
    local key = seats_key(name)
    local may = redis.call('ZREM', key, id .. '\n') == 1 or redis.call('ZSCORE', key, id .. '\n' .. holder)
    if may or redis.call('ZCARD', key) < limit then
        take_seat(name, id, holder, lease)
        redis.call('ZREM', seekers_key(name), id)
        answers[i] = 0
    else
        answers[i] = redis.call('ZCARD', seekers_key(name)) + 1
    end
end
return answers
