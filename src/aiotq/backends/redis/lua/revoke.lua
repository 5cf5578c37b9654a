-- Remember that tasks are not to be run.
-- ARGV: the sender's clock (s), ids, whether those that run are to be cancelled, until when (s).
-- RETURNS: 1.
-- Keeps: what was revoked for longer stays so.
local clock, ids, terminate, ends = unpack(args)
local key = base .. ':revoked'
local IDS_AT_ONCE = 200 -- as in `results/revocations.py`
redis.call('ZREMRANGEBYSCORE', key, '-inf', milliseconds(now))
for _, id in ipairs(ids) do
    redis.call('ZADD', key, 'GT', milliseconds(ends * 1000 + now - clock * 1000), id)
end
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
if last then
    redis.call('PEXPIREAT', key, milliseconds(tonumber(last)))
end
if terminate then
    for from = 1, #ids, IDS_AT_ONCE do
        local some = {unpack(ids, from, math.min(from + IDS_AT_ONCE - 1, #ids))}
        tell_all('revoked', cjson.encode({ids = some, terminate = true, expires = ends}))
    end
end
return 1
