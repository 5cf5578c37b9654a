-- Rows of the fleet registry. A library: scripts that write one include it after `base`.

-- Write the row {key, what it says, its lease, for how long it is kept afterwards (ms)}.
-- Keeps: the two keys expire when the last row does; rows that are missing for long enough go with any renewal.
local function write_fleet_row(row)
    local key, said, lease, kept = unpack(row)
    local ends, rows = base .. ':fleet', base .. ':fleet:rows'
    local gone = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.3f', now - kept))
    if #gone > 0 then
        in_chunks('ZREM', ends, gone)
        in_chunks('HDEL', rows, gone)
    end
    redis.call('ZADD', ends, string.format('%.3f', now + lease), key)
    redis.call('HSET', rows, key, said)
    for _, each in ipairs({ends, rows}) do
        if redis.call('PTTL', each) < lease + kept then
            redis.call('PEXPIRE', each, string.format('%.0f', math.min(math.max(lease + kept, 1), 2 ^ 53)))
        end
    end
end
