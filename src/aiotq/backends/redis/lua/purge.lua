-- Delete what is ready or delayed in a queue, not what is held; a part of it at a time.
-- ARGV: queue, most to delete.  RETURNS: how many were deleted.
-- Keeps: what is held stays.
local queue, most = unpack(args)
local count = 0
for _, level in ipairs({'s', 'a', 'f', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}) do
    local key = queue_key(queue, level)
    if count < most and type_of(key) == 'stream' then
        local last = '-'
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
            local fields = fields_of(group)
            if fields.name == GROUP then
                last = '(' .. fields['last-delivered-id']
            end
        end
        for _, each in ipairs(redis.call('XRANGE', key, last, '+', 'COUNT', most - count)) do
            local fields = fields_of(each[2])
            local id = fields.k or id_of(fields.m)
            if id then
                redis.call('HDEL', IDS, id)
                redis.call('DEL', base .. ':deaths:' .. id)
            end
            redis.call('XDEL', key, each[1])
            count = count + 1
        end
    end
end
for _, priority in ipairs(lanes().lanes_of(queue)) do
    if count < most and type_of(queue_key(queue, 'fair:' .. priority)) == 'zset' then
        for _, each in ipairs(lanes().out_of_lane(queue, priority, most - count)) do
            redis.call('HDEL', IDS, each[1])
            count = count + 1
        end
    end
end
local set = queue_key(queue, 'delayed')
if count < most and type_of(set) == 'zset' then
    for i, member in ipairs(redis.call('ZPOPMIN', set, most - count)) do
        if i % 2 == 1 then -- scores stand between the members
            local id = delayed_fields(member)[1]
            if id then
                redis.call('HDEL', IDS, id)
                redis.call('DEL', base .. ':deaths:' .. id)
            end
            count = count + 1
        end
    end
end
return count
