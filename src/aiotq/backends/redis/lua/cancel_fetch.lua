-- Give back what a read took whose reply nobody got, or have it take nothing when it arrives late.
-- ARGV: consumer, number, lease (ms), its place among those who wait, queues.  RETURNS: how many were given back.
-- Keeps: what was settled or given back meanwhile stays so.
local consumer, number, lease, waiter, queues = unpack(args)
local last, taken = line_state(consumer)
local count = 0
if last == number and taken ~= '' then
    for _, read in ipairs(cmsgpack.unpack(taken)) do
        local queue, level, first, last_one = unpack(read)
        -- Reads of a consumer only go forward: what it holds from here to there is of this read.
        local held = redis.pcall('XPENDING', queue_key(queue, level), GROUP, first, last_one, 100000, consumer)
        for _, each in ipairs(held) do -- none, if the stream is gone
            give_back(queue, level, each[1], true)
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
