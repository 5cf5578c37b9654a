-- Create joins.
-- ARGV: the sender's clock (s), joins.
local clock, joins = unpack(args)
for _, join in ipairs(joins) do
    open_join(join, now - clock * 1000)
end
return 1
