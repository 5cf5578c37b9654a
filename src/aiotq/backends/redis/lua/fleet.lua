-- The fleet registry.
-- ARGV: for how long a row is kept when its lease has ended (ms).
-- RETURNS: {{key, row, what its lease has left (ms, as text)}, …}.
-- Keeps: it writes nothing.
local found = {}
local all = redis.call('ZRANGEBYSCORE', base .. ':fleet', string.format('(%.3f', now - args[1]), '+inf', 'WITHSCORES')
for at = 1, #all, 2 do
    local row = redis.call('HGET', base .. ':fleet:rows', all[at])
    if row then
        found[#found + 1] = {all[at], row, string.format('%.3f', tonumber(all[at + 1]) - now)}
    end
end
return found
