-- Put a batch into its queues, all of it or nothing (P1), once however often it is sent.
-- ARGV: line, number, the sender's clock (seconds), retention of dead letters (ms), envelopes.
-- RETURNS: a byte 1 for each envelope.
-- Keeps: a number that was used is refused; a message is in the broker once; nothing is written before all is checked.
local line, number, clock, retention, envelopes = unpack(args)
if number <= line_state(line) then
    return redis.error_reply('ERR aiotq: this write was given up by its sender')
end
redis.call('HLEN', IDS)
redis.call('SCARD', base .. ':queues')
local kinds = {}
local function check(key, wanted)
    if not kinds[key] then
        kinds[key] = type_of(key)
        if kinds[key] == wanted then
            checked[key] = true
        elseif kinds[key] ~= 'none' then
            return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kinds[key] .. ' and no queue')
        end
    end
end
for _, envelope in ipairs(envelopes) do
    local wrong = check(queue_key(envelope[1], envelope[2]), 'stream')
        or envelope[3] and check(queue_key(envelope[1], 'delayed'), 'zset')
    if wrong then
        return wrong
    end
end
local answers = string.rep('\1', #envelopes)
keep_line(line, number, answers)
add(envelopes, now - clock * 1000, retention)
wake()
return answers
