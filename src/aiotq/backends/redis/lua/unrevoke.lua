-- Forget that tasks are revoked.
-- ARGV: ids.
-- RETURNS: 1.
-- Keeps: what those that run were told stays said.
for _, id in ipairs(args[1]) do
    redis.call('ZREM', base .. ':revoked', id)
end
return 1
