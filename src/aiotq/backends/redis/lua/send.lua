-- Put a batch into its queues, all of it or nothing (P1), once however often it is sent.
-- ARGV: line, number, the sender's clock (seconds), retention of dead letters (ms), envelopes, columns; then the messages
-- of the columns. A column is {queue, level, ids}: messages for one stream, each with an id that no other of the batch has.
-- RETURNS: a byte 1 for each message.
-- Keeps: a number that was used is refused; a message is in the broker once; nothing is written before all is checked.
local line, number, clock, retention, envelopes, columns = unpack(args)
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
local count = #envelopes
for _, column in ipairs(columns) do
    count = count + #column[3]
    local wrong = check(queue_key(column[1], column[2]), 'stream')
    if wrong then
        return wrong
    end
end
for _, envelope in ipairs(envelopes) do
    local wrong = check(queue_key(envelope[1], envelope[2]), 'stream')
        or envelope[3] and check(queue_key(envelope[1], 'delayed'), 'zset')
    if wrong then
        return wrong
    end
end
local answers = string.rep('\1', count)
keep_line(line, number, answers)
local sent = 1
for _, column in ipairs(columns) do
    local queue, level, ids = unpack(column)
    local key, before, after = queue_key(queue, level), level .. ' ', ' ' .. queue
    local known, kept, added = in_chunks('HMGET', IDS, ids), {}, 0
    ready_to_add(queue, level)
    for i, id in ipairs(ids) do
        if not (known[i] and messages().is_there(known[i])) then
            kept[#kept + 1] = id
            kept[#kept + 1] = before .. redis.call('XADD', key, '*', 'm', ARGV[sent + i]) .. after
            added = added + 1
        end
    end
    in_chunks('HSET', IDS, kept)
    sent = sent + #ids
    news[queue] = added > 0 and (news[queue] or 0) + added or news[queue]
end
if #envelopes > 0 then
    messages().add(envelopes, now - clock * 1000, retention)
end
wake()
return answers
