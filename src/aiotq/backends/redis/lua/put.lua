-- Store states.
-- ARGV: the sender's clock (s), records.
-- RETURNS: 1.
-- Keeps: a terminal state stays.
local clock, records = unpack(args)
for _, record in ipairs(records) do
    put_record(record, now - clock * 1000)
end
push_rest()
return 1
