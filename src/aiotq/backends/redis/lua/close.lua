-- Write the ends of claimed runs.
-- ARGV: the sender's clock (s), holder, closings {id, whether it is done, record or
-- false, envelopes, and, if there is any, joining and further records}.
-- RETURNS: for each the packed envelopes that are to be sent, or false: the claim was lost, nothing was written.
-- Keeps: a claim that is done answers as the first time.
local clock, holder, closings = unpack(args)
local offset = now - clock * 1000
local answers = {}
for i, closing in ipairs(closings) do
    local id, is_done, record, envelopes, joining, further = unpack(closing)
    local key = base .. ':claim:' .. id
    local state = redis.call('HMGET', key, 'holder', 'done')
    if state[1] ~= holder then
        answers[i] = false
    elseif state[2] then
        answers[i] = state[2]
    else
        answers[i] = cmsgpack.pack(write_outcome(record, envelopes, joining, further, offset))
        if is_done then
            redis.call('HSET', key, 'done', answers[i])
            redis.call('PEXPIRE', key, CLAIM_KEPT)
        elseif redis.call('HEXISTS', key, 'died') == 1 then
            redis.call('HSET', key, 'holder', '', 'ends', '0')
        else
            redis.call('DEL', key)
        end
    end
end
push_rest()
return answers
