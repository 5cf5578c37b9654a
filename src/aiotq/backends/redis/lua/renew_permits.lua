-- Begin the leases of seats anew; one that was lost stays so.
-- ARGV: holder, lease (ms), seats {id of a message, name}.
-- RETURNS: 1.
local holder, lease, seats = unpack(args)
for _, seat in ipairs(seats) do
    local id, name = unpack(seat)
    if redis.call('ZSCORE', seats_key(name), id .. '\n' .. holder) then
        take_seat(name, id, holder, lease)
    end
end
return 1
