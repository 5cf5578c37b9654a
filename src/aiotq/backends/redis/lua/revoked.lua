-- Which tasks are revoked.
-- ARGV: ids.  RETURNS: those of them.
-- Keeps: it writes nothing.
local found = {}
for _, id in ipairs(args[1]) do
    local ends = redis.call('ZSCORE', base .. ':revoked', id)
    if ends and tonumber(ends) > now then
        found[#found + 1] = id
    end
end
return found
