-- Forget that tasks are revoked.
-- ARGV: ids.
for _, id in ipairs(args[1]) do
    redis.call('ZREM', base .. ':revoked', id)
end
return 1
