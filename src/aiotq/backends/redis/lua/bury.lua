-- Add dead letters of another broker.
-- ARGV: retention of dead letters (ms), {{queue, priority, blob, reason, detail, deaths, when it died (ms)}, …}.
-- RETURNS: 1.
-- Keeps: the time of each death, unless a younger letter stands in the queue's stream already.
local retention, letters = unpack(args)
for _, each in ipairs(letters) do
    bury(each[1], each[2], each[3], each[4], each[5], each[6], retention, each[7])
end
return 1
