-- Give back what a read took whose reply nobody got, or have it take nothing when it arrives late.
-- ARGV: consumer, number, lease (ms), its place among those who wait, queues.  RETURNS: how many were given back.
-- Keeps: what was settled or given back meanwhile stays so.
local consumer, number, lease, waiter, queues = unpack(args)
local last, taken = line_state(consumer)
local count = 0
if last == number and taken ~= '' then
    for _, each in ipairs(cmsgpack.unpack(taken)) do
        if is_held(each[1], each[2], each[3]) then
            give_back(each[1], each[2], each[3], true)
            count = count + 1
        end
    end
end
if last <= number then
    redis.call('SET', line_key(consumer), cmsgpack.pack({number, ''}), 'PX', math.max(lease * 4, 60000))
end
stop_waiting(queues, waiter)
wake()
return count
