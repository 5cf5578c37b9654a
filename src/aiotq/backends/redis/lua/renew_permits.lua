-- Begin the leases of permits anew; one that was lost stays so.
-- ARGV: holder, lease (ms), permits {id of a message, name}.
-- RETURNS: 1.
local holder, lease, permits = unpack(args)
for _, permit in ipairs(permits) do
    local id, name = unpack(permit)
    if redis.call('ZSCORE', permits_key(name), id .. '\n' .. holder) then
        take_permit(name, id, holder, lease)
    end
end
return 1
