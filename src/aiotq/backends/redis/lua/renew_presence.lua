-- Write a worker's row of the fleet registry.
-- ARGV: its key, its row, the seconds of its lease and those for which it is kept afterwards (ms).
-- RETURNS: 1.
-- Keeps: the two keys expire when the last row does; rows that are missing for long enough go with any renewal.
local key, row, lease, kept = unpack(args)
local ends, rows = base .. ':fleet', base .. ':fleet:rows'
local gone = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.3f', now - kept))
if #gone > 0 then
    in_chunks('ZREM', ends, gone)
    in_chunks('HDEL', rows, gone)
end
redis.call('ZADD', ends, string.format('%.3f', now + lease), key)
redis.call('HSET', rows, key, row)
for _, each in ipairs({ends, rows}) do
    if redis.call('PTTL', each) < lease + kept then
        redis.call('PEXPIRE', each, milliseconds(lease + kept))
    end
end
return 1
