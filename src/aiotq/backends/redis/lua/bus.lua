-- The bus: small messages to one process or to all, in the form that `backends/redis/bus.py` reads. A library.
--
-- {base}:to:{process}     channel of one process
-- {base}:all              channel of all
-- A message is its topic, a line feed, and its payload.

-- Tell one process; return how many heard it.
local function tell(process, topic, payload)
    return redis.call('PUBLISH', base .. ':to:' .. process, topic .. '\n' .. payload)
end

local function tell_all(topic, payload)
    return redis.call('PUBLISH', base .. ':all', topic .. '\n' .. payload)
end
