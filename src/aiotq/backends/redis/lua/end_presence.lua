-- Remove a worker's row from the fleet registry.
-- ARGV: its key.  RETURNS: 1.
-- Keeps: the rows of others.
redis.call('ZREM', base .. ':fleet', args[1])
redis.call('HDEL', base .. ':fleet:rows', args[1])
return 1
