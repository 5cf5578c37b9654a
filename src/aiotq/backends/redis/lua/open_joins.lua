-- Create joins.
-- ARGV: the sender's clock (s), joins.
-- RETURNS: 1.
-- Keeps: one that is there stays as it is.
local clock, wanted = unpack(args)
for _, join in ipairs(wanted) do
    open_join(join, now - clock * 1000)
end
return 1
