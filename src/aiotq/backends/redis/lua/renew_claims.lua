-- Begin the leases of claims anew; take back the deaths of a holder that is alive after all.
-- ARGV: holder, lease (ms), ids of messages, a row of the fleet registry (see `fleet_rows`) or false.
-- RETURNS: a byte for each id: 1 renewed, 0 lost.
-- Keeps: what another holds, and what is done, stays as it is; claims come before the row.
local holder, lease, ids, row = unpack(args)
local answers = {}
for i, id in ipairs(ids) do
    local key = base .. ':claim:' .. id
    local state = redis.call('HMGET', key, 'holder', 'done', 'died')
    answers[i] = '\0'
    if state[1] == holder and not state[2] then
        redis.call('HSET', key, 'ends', string.format('%.3f', now + lease))
        redis.call('PEXPIRE', key, milliseconds(lease + CLAIM_KEPT))
        answers[i] = '\1'
    elseif state[3] then
        local died = ''
        for each in string.gmatch(state[3], '([^\n]*)\n') do
            if each ~= holder then died = died .. each .. '\n' end
        end
        if died ~= state[3] then redis.call('HSET', key, 'died', died) end
    end
end
if row then write_fleet_row(row) end
return table.concat(answers)
