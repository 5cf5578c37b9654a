-- Delete messages that wait for their due time.
-- ARGV: ids of messages.
-- RETURNS: a byte for each, 1: it was deleted, 0: it does not wait.
-- Keeps: what is due, held or elsewhere.
local answers = {}
for i, id in ipairs(args[1]) do
    answers[i] = '\0'
    local due, queue = string.match(redis.call('HGET', IDS, id) or '', '^delayed (%S+) (.*)$')
    if due and can_delay(queue) then
        local key = queue_key(queue, 'delayed')
        for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, due, due)) do
            if delayed_fields(member)[1] == id then
                redis.call('ZREM', key, member)
                redis.call('HDEL', IDS, id)
                redis.call('DEL', base .. ':deaths:' .. id)
                answers[i] = '\1'
            end
        end
    end
end
return table.concat(answers)
