-- Claim the right to run messages.
-- ARGV: holder, lease (ms), ids of messages.
-- RETURNS: for each {'c'}: claimed; {'d', packed envelopes}: done; {'h', left}: another's for so long (ms).
local holder, lease, ids = unpack(args)
local answers = {}
for i, id in ipairs(ids) do
    local key = base .. ':claim:' .. id
    local state = redis.call('HMGET', key, 'holder', 'ends', 'done')
    if state[3] then
        answers[i] = {'d', state[3]}
    elseif state[1] and state[1] ~= holder and tonumber(state[2]) > now then
        answers[i] = {'h', string.format('%.3f', tonumber(state[2]) - now)}
    else
        redis.call('HSET', key, 'holder', holder, 'ends', string.format('%.3f', now + lease))
        redis.call('PEXPIRE', key, milliseconds(lease + CLAIM_KEPT))
        answers[i] = {'c'}
    end
end
return answers
