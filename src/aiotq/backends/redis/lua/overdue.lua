-- Which joins are overdue.
-- ARGV: how many to return at most.  RETURNS: their ids.
-- Keeps: they stay as they are. Guesses are put right, and what is gone leaves the index: nothing is looked at in vain
-- again and again.
local limit = args[1]
local BATCH, MOST_LOOKS = 100, 1000
local found, looks = {}, 0
while #found < limit and looks < MOST_LOOKS do
    local ids = redis.pcall('ZRANGEBYSCORE', JOINS, '-inf', milliseconds(now), 'LIMIT', #found, BATCH)
    if ids.err or #ids == 0 then
        break
    end
    looks = looks + #ids
    for _, id in ipairs(ids) do
        local fields = open_fields(id, 'patience', 'until', 'touched')
        if not fields then
            redis.call('ZREM', JOINS, id)
        else
            local patience = tonumber(fields[2]) or 0
            local deadline = math.max(tonumber(fields[3]) or 0, tonumber(fields[4]) or 0) + patience
            if deadline > now then
                note_guess(id, deadline, patience)
            else
                found[#found + 1] = id
            end
        end
    end
end
while #found > limit do
    found[#found] = nil
end
return found
