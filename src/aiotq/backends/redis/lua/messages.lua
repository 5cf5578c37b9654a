-- What is done with some messages: those that are delayed, given back, given up. A library: scripts on queues include it
-- after `queues`, and those that most calls need have its functions made when they first want one (`messages()`).
local SUSPECT_DEATHS = 2
local DEATHS_KEPT = 7 * 86400
local BLAMES_KEPT = 86400
local DUE_BATCH = 500

-- Whether messages can be kept until they are due.
local function can_delay(queue)
    local key = queue_key(queue, 'delayed')
    if checked[key] == nil then
        local kind = type_of(key)
        checked[key] = kind == 'none' or kind == 'zset'
    end
    return checked[key]
end

-- Whether messages can wait by key; if somebody put something else at one of these keys they are plain ones.
local function can_share(queue, priority)
    local key = queue_key(queue, 'fair:' .. priority)
    if checked[key] == nil then
        checked[key] = true
        for name, wanted in pairs({['fair:' .. priority] = 'zset', ['shares:' .. priority] = 'zset', lanes = 'set'}) do
            local kind = type_of(queue_key(queue, name))
            checked[key] = checked[key] and (kind == 'none' or kind == wanted)
        end
    end
    return checked[key]
end

-- A consumer does not come for news any more. If it was chosen for some already, another one is to look.
local function stop_waiting(queues, waiter)
    for _, queue in ipairs(queues) do
        if redis.pcall('SREM', queue_key(queue, 'waiting'), waiter) == 0 then
            news[queue] = (news[queue] or 0) + 1
        end
    end
end

-- The priority that `text` says, if it does.
local function priority_of(text)
    local priority = math.floor(tonumber(text) or 4)
    return priority >= 0 and priority <= 9 and priority or 4
end

local function count_of(text)
    local count = math.floor(tonumber(text or '') or 0)
    return count > 0 and count < 2147483648 and count or 0
end

-- How many holders of a message died, and how many of these deaths it is charged with.
local function deaths_of(id)
    local record = redis.pcall('HMGET', base .. ':deaths:' .. id, 'deaths', 'charges')
    if record.err then
        return 0, 0
    end
    return count_of(record[1]), count_of(record[2])
end

local function note_deaths(id, deaths, charges)
    local record = base .. ':deaths:' .. id
    redis.call('DEL', record)
    if deaths > 0 then
        redis.call('HSET', record, 'deaths', string.format('%d', deaths), 'charges', string.format('%d', charges))
        redis.call('EXPIRE', record, DEATHS_KEPT)
    end
end

-- The fields {id or false, priority, returns, blob, share or nil} of a member of a delayed set. One that is none of ours is a message
-- that can't be read: whoever gets it will say so.
local function delayed_fields(member)
    local is_packed, fields = pcall(cmsgpack.unpack, member)
    if is_packed and type(fields) == 'table' then
        local id, priority, returns, blob, share = unpack(fields, 1, 5)
        if type(id) == 'string' and type(blob) == 'string' and tonumber(priority) and tonumber(returns) then
            return {id ~= '' and id, priority_of(priority), tonumber(returns), blob, type(share) == 'table' and share or nil}
        end
    end
    return {false, 4, 0, member}
end

-- The id of the message in `blob`, as `Message.key` makes it; nil if it can't be read.
local function id_of(blob)
    if type(blob) ~= 'string' or #blob < 4 then
        return nil
    end
    local length = struct.unpack('>I4', blob)
    local is_json, headers = pcall(cjson.decode, string.sub(blob, 5, 4 + length))
    if not is_json or type(headers) ~= 'table' or type(headers.id) ~= 'string' then
        return nil
    end
    local attempt = headers.attempt
    if type(attempt) == 'number' and attempt > 0 then
        return headers.id .. '\t' .. string.format('%d', attempt)
    end
    return headers.id
end

local function fields_of(list)
    local fields = {}
    for i = 1, #list, 2 do
        fields[list[i]] = list[i + 1]
    end
    return fields
end

-- The fields of one entry; nil if it is gone.
local function entry(key, id)
    local found = redis.call('XRANGE', key, id, id)[1]
    return found and fields_of(found[2])
end

local function is_held(queue, level, id)
    local reply = redis.pcall('XPENDING', queue_key(queue, level), GROUP, id, id, 1)
    return not reply.err and #reply > 0
end

local function remove(queue, level, id)
    local key = queue_key(queue, level)
    redis.call('XACK', key, GROUP, id)
    redis.call('XDEL', key, id)
end

-- Keep a message until `due` (ms), and tell those who wait if it is the earliest.
local function delay(queue, due, id, priority, returns, blob, share)
    local key = queue_key(queue, 'delayed')
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    redis.call('ZADD', key, string.format('%.3f', due), cmsgpack.pack({id or '', priority, returns, blob, share}))
    redis.call('SADD', base .. ':queues', queue)
    if id then
        redis.call('HSET', IDS, id, string.format('delayed %.3f %s', due, queue))
    end
    if not first[2] or due < tonumber(first[2]) then
        local waiting = redis.pcall('SMEMBERS', queue_key(queue, 'waiting'))
        for _, waiter in ipairs(waiting) do
            tell(process_of(waiter), 'due', string.format('%.3f', due - now))
        end
    end
end

-- Put a message into a stream of what comes before newer ones: `a`, or `s` for suspects. False if that can't be, since
-- the key holds something else: then it stays where it is.
local function put_again(queue, id, priority, returns, since, blob)
    local level = 'a'
    if id and deaths_of(id) >= SUSPECT_DEATHS then
        level = 's'
    end
    if not ready_to_add(queue, level) then
        return false
    end
    local new = redis.call(
        'XADD', queue_key(queue, level), '*', 'm', blob, 'k', id or '', 'p', priority, 'n', returns, 't', since
    )
    if id then
        redis.call('HSET', IDS, id, level .. ' ' .. new .. ' ' .. queue)
    end
    news[queue] = (news[queue] or 0) + 1
    return true
end

-- What is known of an entry that is held: id, priority, returns, since (ms), blob; nil if it is gone.
local function held_message(queue, level, id)
    local fields = entry(queue_key(queue, level), id)
    if not fields then
        return nil
    end
    local blob = fields.m or cmsgpack.pack(fields)
    if level == 'a' or level == 's' then
        local key = fields.k ~= '' and fields.k or nil
        return key, priority_of(fields.p), tonumber(fields.n) or 0, tonumber(fields.t) or now, blob
    elseif level == 'f' then
        return id_of(blob), priority_of(fields.p), 0, tonumber(fields.t) or now, blob
    end
    return id_of(blob), tonumber(level), 0, tonumber(string.match(id, '^%d+')), blob
end

-- Give a held entry back to its queue, at once or `after` milliseconds; `is_return` counts it as handed back. False if
-- that can't be: then it is held on.
local function give_back(queue, level, id, is_return, after)
    local key, priority, returns, since, blob = held_message(queue, level, id)
    if blob then
        if is_return then
            returns = returns + 1
        end
        if after and after > 0 and can_delay(queue) then
            delay(queue, now + after, key, priority, returns, blob)
        elseif not put_again(queue, key, priority, returns, since, blob) then
            return false
        end
    end
    remove(queue, level, id)
    return true
end

-- Take back the deaths that a consumer was blamed for: it is alive.
local function take_back_blames(consumer)
    local blames = base .. ':blames:' .. consumer
    local blamed = redis.call('HGETALL', blames)
    for i = 1, #blamed, 2 do
        local id, charge = blamed[i], count_of(blamed[i + 1])
        local deaths, charges = deaths_of(id)
        if deaths > 0 then
            deaths = deaths - 1
            note_deaths(id, deaths, math.max(charges - charge, 0))
            local entry_id, queue = string.match(redis.call('HGET', IDS, id) or '', '^s (%S+) (.*)$')
            if deaths < SUSPECT_DEATHS and entry_id and not is_held(queue, 's', entry_id) then
                give_back(queue, 's', entry_id, false)
            end
        end
    end
    redis.call('DEL', blames)
end

-- An id of the stream at `key` for an entry of millisecond `at`; nil if younger ones are there. (Redis makes the second
-- half of an id itself from 7.0 on.)
local function id_at(key, at)
    local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    local ms, number = string.match(last and last[1] or '0-0', '^(%d+)-(%d+)$')
    if tonumber(ms) > at then
        return nil
    end
    return string.format('%.0f-%.0f', at, tonumber(ms) == at and tonumber(number) + 1 or 0)
end

-- Add a dead letter, that died now or at `died` (ms). `retention` in milliseconds.
local function bury(queue, priority, blob, reason, detail, deaths, retention, died)
    local key = queue_key(queue, 'dead')
    local kind = type_of(key)
    if kind ~= 'none' and kind ~= 'stream' then
        redis.call('RENAME', key, key .. ':no-stream') -- not ours, and no reason to lose a message or half a finish
    end
    local function write(call, id)
        return call(
            'XADD', key, 'MINID', string.format('%.0f', math.max(now - retention, 0)), id,
            'm', blob, 'p', priority, 'r', reason, 'd', detail, 'n', deaths
        )
    end
    local id = died and id_at(key, math.floor(died + 0.5))
    local then_ = id and write(redis.pcall, id)
    if not then_ or type(then_) == 'table' and then_.err then -- its place in the stream is taken by younger ones
        write(redis.call, '*')
    end
    redis.call('PEXPIRE', key, string.format('%.0f', retention))
    redis.call('SADD', base .. ':queues', queue)
end

-- Whether the message is still where `{base}:ids` says: a stream may have been trimmed or deleted by hand.
local function is_there(where)
    local level, id, queue = string.match(where, '^(%w) (%S+) (.*)$')
    if not level then
        local priority, of = string.match(where, '^fair (%d) (.*)$')
        if priority then
            return redis.call('EXISTS', queue_key(of, 'fair:' .. priority)) == 1
        end
        queue = string.match(where, '^delayed %S+ (.*)$')
        return queue and redis.call('EXISTS', queue_key(queue, 'delayed')) == 1
    end
    local found = redis.pcall('XRANGE', queue_key(queue, level), id, id)
    return not found.err and #found > 0
end

-- Put envelopes into their queues, but for those whose message is in the broker already. An envelope is
-- {queue, level, due, id, blob, share or nil}: due in seconds since the epoch by the sender's clock, which is `offset` ms
-- behind ours.
-- One whose queue's key holds something else becomes a dead letter.
local function add(envelopes, offset, retention)
    if #envelopes == 0 then
        return
    end
    local ids = {}
    for i, envelope in ipairs(envelopes) do
        ids[i] = envelope[4]
    end
    local known = in_chunks('HMGET', IDS, ids)
    local places = {}
    for i, envelope in ipairs(envelopes) do
        local queue, level, due, id, blob, share = unpack(envelope, 1, 6)
        if not (known[i] and is_there(known[i])) and not places[id] then
            local due_here = due and due * 1000 + offset
            places[id] = true
            local is_early = due_here and due_here > now
            if is_early and can_delay(queue) then
                delay(queue, due_here, id, level, 0, blob, share)
            elseif is_early then
                bury(queue, level, blob, 'no-queue', queue_key(queue, 'delayed') .. ' is no sorted set', 0, retention)
            elseif share and can_share(queue, level) then
                lanes().add_to_lane(queue, level, id, share, now, blob)
            elseif ready_to_add(queue, level) then
                local new = redis.call('XADD', queue_key(queue, level), '*', 'm', blob)
                places[id] = level .. ' ' .. new .. ' ' .. queue
                news[queue] = (news[queue] or 0) + 1
            else
                bury(queue, level, blob, 'no-queue', queue_key(queue, level) .. ' is no stream', 0, retention)
            end
        end
    end
    local kept = {}
    for id, place in pairs(places) do
        if place ~= true then
            kept[#kept + 1] = id
            kept[#kept + 1] = place
        end
    end
    in_chunks('HSET', IDS, kept)
end

-- Move what is due to its streams, in the order of the due times. False if something can't be moved, since the key of a
-- stream holds something else.
local function move_due(queue)
    local key = queue_key(queue, 'delayed')
    local due = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.3f', now), 'LIMIT', 0, DUE_BATCH)
    local moved = {}
    for _, member in ipairs(due) do
        local id, priority, returns, blob, share = unpack(delayed_fields(member), 1, 5)
        if id and returns == 0 and share and can_share(queue, priority) then
            lanes().add_to_lane(queue, priority, id, share, now, blob)
            moved[#moved + 1] = member
        elseif id and returns == 0 and ready_to_add(queue, priority) then
            local new = redis.call('XADD', queue_key(queue, priority), '*', 'm', blob)
            redis.call('HSET', IDS, id, priority .. ' ' .. new .. ' ' .. queue)
            news[queue] = (news[queue] or 0) + 1
            moved[#moved + 1] = member
        elseif put_again(queue, id, priority, returns, now, blob) then
            moved[#moved + 1] = member
        end
    end
    if #moved > 0 then
        redis.call('ZREM', key, unpack(moved))
    end
    return #moved == #due
end

-- Make a delayed message due now. False if it does not wait for that.
local function hurry(id)
    local due, queue = string.match(redis.call('HGET', IDS, id) or '', '^delayed (%S+) (.*)$')
    if not due or not can_delay(queue) then
        return false
    end
    local key = queue_key(queue, 'delayed')
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, due, due)) do
        local its, priority, returns, blob, share = unpack(delayed_fields(member), 1, 5)
        if its == id then
            redis.call('ZREM', key, member)
            delay(queue, now, id, priority, returns, blob, share)
            return true
        end
    end
    return false
end

-- Settle one delivery {queue, level, entry, id}: kind 'a' acknowledge, 'h' hand back after `detail` ms, 'g' give up for
-- `reason` with `detail`. False if it is not held any more, and then nothing is done.
local function settle(delivery, kind, reason, detail, retention)
    local queue, level, id, message_id = unpack(delivery)
    local key = queue_key(queue, level)
    if kind == 'h' then
        if not is_held(queue, level, id) then
            return false
        end
        give_back(queue, level, id, true, detail)
        return true
    end
    if not was_held(key, id) then
        return false
    end
    local deaths = 0
    if level == 'a' or level == 's' then
        deaths = deaths_of(message_id)
        note_deaths(message_id, 0, 0)
    end
    if kind == 'g' then
        local _, priority, _, _, blob = held_message(queue, level, id)
        if blob then
            bury(queue, priority, blob, reason, detail, deaths, retention)
        end
    end
    acknowledge(key, id, message_id)
    return true
end

-- Make the group of a stream that has none. Somebody may have destroyed it while entries were held, and their holders
-- run on. An entry's number is its lease, so the first ones become other entries: those that were held are among them.
local function begin_anew(queue, level, key)
    redis.call('XGROUP', 'CREATE', key, GROUP, '0')
    for _, each in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 10000)) do
        local fields = fields_of(each[2])
        if fields.m and #each[2] <= 100 then -- others are foreign: nobody runs them
            local new = redis.call('XADD', key, '*', unpack(each[2]))
            redis.call('XDEL', key, each[1])
            local id = fields.k or id_of(fields.m)
            if id and id ~= '' and redis.call('HEXISTS', IDS, id) == 1 then
                redis.call('HSET', IDS, id, level .. ' ' .. new .. ' ' .. queue)
            end
        end
    end
end
