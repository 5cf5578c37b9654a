-- Claim the right to run messages.
-- ARGV: holder, lease (ms), ids of messages, from how many deaths on one is a suspect (0: none is), how many of
-- those may be claimed, and holders that are gone.
-- RETURNS: for each {'c', deaths}: claimed; {'d', packed envelopes}: done; {'h', left}: another's for so long (ms);
-- {'s', deaths}: a suspect, not claimed.
-- Keeps: a message has one holder at a time; who died with it is known until it is done.
local holder, lease, ids, deadly, room, gone = unpack(args)
local is_gone = {}
for _, each in ipairs(gone) do is_gone[each] = true end
local answers = {}
for i, id in ipairs(ids) do
    local key = base .. ':claim:' .. id
    local state = redis.call('HMGET', key, 'holder', 'ends', 'done', 'died')
    if state[3] then
        answers[i] = {'d', state[3]}
    elseif state[1] and state[1] ~= holder and tonumber(state[2]) > now and not is_gone[state[1]] then
        answers[i] = {'h', string.format('%.3f', tonumber(state[2]) - now)}
    else
        local died = state[4] or ''
        if state[1] and state[1] ~= '' and state[1] ~= holder then died = died .. state[1] .. '\n' end
        local _, deaths = string.gsub(died, '\n', '')
        local is_suspect = deadly > 0 and deaths >= deadly
        if is_suspect and room <= 0 then
            answers[i] = {'s', deaths}
        else
            if is_suspect then room = room - 1 end
            redis.call('HSET', key, 'holder', holder, 'ends', string.format('%.3f', now + lease))
            if died ~= '' then redis.call('HSET', key, 'died', died) end
            redis.call('PEXPIRE', key, milliseconds(lease + CLAIM_KEPT))
            answers[i] = {'c', deaths}
        end
    end
end
return answers
