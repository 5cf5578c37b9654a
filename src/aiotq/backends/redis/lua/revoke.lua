-- Remember that tasks are not to be run.
-- ARGV: the sender's clock (s), ids, whether those that run are to be cancelled, until when (s).
-- RETURNS: 1.
-- Keeps: what was revoked for longer stays so.
local clock, ids, terminate, ends = unpack(args)
local key = base .. ':revoked'
redis.call('ZREMRANGEBYSCORE', key, '-inf', milliseconds(now))
for _, id in ipairs(ids) do
    redis.call('ZADD', key, 'GT', milliseconds(ends * 1000 + now - clock * 1000), id)
end
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
if last then
    redis.call('PEXPIREAT', key, milliseconds(tonumber(last)))
end
if terminate then
    redis.call('PUBLISH', base .. ':all', 'x' .. cmsgpack.pack(ids))
end
return 1
