-- Give back all that a consumer holds, in the order it came, and forget it; it is alive, and to blame for no death.
-- ARGV: consumer, its place among those who wait, a number beyond all its reads, queues.  RETURNS: how many were given back.
-- Keeps: what can't be given back stays held, and is a stray when its lease ends.
local consumer, waiter, beyond, queues = unpack(args)
redis.call('SET', line_key(consumer), cmsgpack.pack({beyond, ''}), 'PX', 60000)
local LEVELS = {'s', 'a', 'f', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local count = 0
stop_waiting(queues, waiter)
take_back_blames(consumer)
for _, queue in ipairs(queues) do
    for _, level in ipairs(LEVELS) do
        local key = queue_key(queue, level)
        local held = redis.pcall('XPENDING', key, GROUP, '-', '+', 100000, consumer)
        if not held.err then
            local is_all = true
            for _, each in ipairs(held) do
                if give_back(queue, level, each[1], true) then
                    count = count + 1
                else
                    is_all = false
                end
            end
            if is_all then -- what it still holds would be nobody's: that is a stray when its lease ends
                redis.call('XGROUP', 'DELCONSUMER', key, GROUP, consumer)
            end
        end
    end
end
wake()
return count
