-- Delete finished claims: their tasks may run again.
-- ARGV: ids.
-- RETURNS: 1.
-- Keeps: the claim of a run that goes on stays.
for _, id in ipairs(args[1]) do
    local attempt = 0
    local claim = base .. ':claim:' .. id
    while redis.call('EXISTS', claim) == 1 do
        if redis.call('HEXISTS', claim, 'done') == 1 then
            redis.call('DEL', claim)
        end
        attempt = attempt + 1
        claim = base .. ':claim:' .. id .. '\t' .. attempt
    end
end
return 1
