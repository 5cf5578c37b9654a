-- Begin the leases of a consumer anew, and take back the deaths it was blamed for: it is alive.
-- ARGV: consumer, {{queue, level, {entry, …}}, …}, a row of the fleet registry (see `fleet_rows`) or false.
-- RETURNS: for each of these the entries that are still held, and behind them why the row was not written, or ''.
-- Keeps: what was given to somebody else, or is gone, is not taken back.
local consumer, held, row = unpack(args)
local kept = {}
for i, each in ipairs(held) do
    local key = queue_key(each[1], each[2])
    kept[i] = {}
    for from = 1, #each[3], 4000 do
        local to = math.min(from + 3999, #each[3])
        local command = {'XCLAIM', key, GROUP, consumer, 0}
        for n = from, to do
            command[#command + 1] = each[3][n]
        end
        command[#command + 1] = 'JUSTID'
        local reply = redis.pcall(unpack(command))
        if reply.err and not (string.find(reply.err, 'NOGROUP') or string.find(reply.err, 'WRONGTYPE')) then
            redis.call(unpack(command)) -- the server can't: that is no reason to think the leases lost
        elseif not reply.err then
            for _, id in ipairs(reply) do
                kept[i][#kept[i] + 1] = id
            end
        end
    end
end
take_back_blames(consumer)
wake()
kept[#kept + 1] = ''
if row then
    local is_written, complaint = pcall(write_fleet_row, row) -- leases are renewed whatever somebody did to its keys
    if not is_written then
        kept[#kept] = type(complaint) == 'table' and complaint.err or tostring(complaint)
    end
end
return kept
