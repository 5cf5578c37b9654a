-- Create joins.
-- ARGV: the sender's clock (s), joins.
-- RETURNS: 1.
-- Keeps: one that is there stays as it is.
local clock, wanted = unpack(args)
for _, join in ipairs(wanted) do
    on_joins().open(join, now - clock * 1000)
end
return 1
