-- Have the records of a task pushed to a process, or no more.
-- ARGV: process, id, whether to watch, seconds to keep that.
-- RETURNS: 1.
-- Keeps: nothing of it outlives its seconds.
local process, id, wanted, kept = unpack(args)
local key = base .. ':watch:' .. id
if wanted then
    redis.call('SADD', key, process)
    redis.call('EXPIRE', key, kept)
    redis.call('SET', base .. ':watching', 1, 'EX', kept)
else
    redis.call('SREM', key, process)
end
return 1
