-- What waits by key (see `aiotq.transport.shares`). A library: scripts on queues include it before `messages`.
--
-- {base}:q:{queue}:lanes            set of the priorities whose lanes have something
-- {base}:q:{queue}:fair:{priority}  sorted set by tag of packed {id, since, message}
-- {base}:q:{queue}:shares:{priority} sorted set of keys by their last tags; those up to the first that waits say nothing,
--                                   and all go when nothing waits
-- {base}:q:{queue}:f                stream of what a read took out of lanes, in the same step: m, p priority, t since
--
-- What a message is given back as is a plain one: its turn was.
local lanes_known = {}

local function lanes_of(queue)
    local found = redis.pcall('SMEMBERS', queue_key(queue, 'lanes'))
    return found.err and {} or found
end

-- A lane as this script knows it: the tag of its first, and the last tags of the keys that were asked for.
local function lane_of(queue, priority)
    local waiting = queue_key(queue, 'fair:' .. priority)
    local lane = lanes_known[waiting]
    if not lane then
        lane = {waiting = waiting, shares = queue_key(queue, 'shares:' .. priority), first = 0, last = {}}
        local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
        if first then
            lane.first = tonumber(first)
            redis.call('ZREMRANGEBYSCORE', lane.shares, '-inf', first)
        else
            redis.call('DEL', lane.shares)
            redis.call('SADD', queue_key(queue, 'lanes'), priority)
        end
        lanes_known[waiting] = lane
    end
    return lane
end

-- Have a message wait by its key. `share`: the key, and the cost of a call.
local function add_to_lane(queue, priority, id, share, since, blob)
    local lane = lane_of(queue, priority)
    local key, cost = share[1], share[2]
    local last = lane.last[key] or tonumber(redis.call('ZSCORE', lane.shares, key) or 0)
    local tag = math.max(lane.first, last) + cost
    local text = string.format('%.17g', tag)
    lane.last[key] = tag
    redis.call('ZADD', lane.shares, text, key)
    redis.call('ZADD', lane.waiting, text, cmsgpack.pack({id, since, blob}))
    redis.call('SADD', base .. ':queues', queue)
    redis.call('HSET', IDS, id, 'fair ' .. priority .. ' ' .. queue)
    news[queue] = (news[queue] or 0) + 1
end

-- Take up to `most` out of a lane, {id, since, message} each, in turn; and whether more are there.
local function out_of_lane(queue, priority, most)
    local waiting = queue_key(queue, 'fair:' .. priority)
    local popped, found = redis.call('ZPOPMIN', waiting, most), {}
    for i = 1, #popped, 2 do
        found[#found + 1] = cmsgpack.unpack(popped[i])
    end
    local has_more = redis.call('EXISTS', waiting) == 1
    if not has_more then
        redis.call('DEL', queue_key(queue, 'shares:' .. priority))
        redis.call('SREM', queue_key(queue, 'lanes'), priority)
    end
    lanes_known[waiting] = nil
    return found, has_more
end

-- Move up to `most` of a lane to the stream of what is taken.
local function move_out_of_lane(queue, priority, most)
    local key = queue_key(queue, 'f')
    local found, has_more = out_of_lane(queue, priority, most)
    local kept = {}
    for _, each in ipairs(found) do
        local id, since, blob = unpack(each)
        local new = redis.call('XADD', key, '*', 'm', blob, 'p', priority, 't', since)
        kept[#kept + 1] = id
        kept[#kept + 1] = 'f ' .. new .. ' ' .. queue
    end
    in_chunks('HSET', IDS, kept)
    return #found, has_more
end
