-- Give back what dead consumers held, note their deaths, and tidy up.
-- ARGV: lease (ms) of consumers that don't say theirs, most to give back, queues to look at beside those known, names of
-- consumers that are dead although their leases have not ended; if there are any, nobody else is looked for.
-- RETURNS: how many were given back.
-- Keeps: a suspect is charged only if it was the only one its holder had. A consumer's name ends with its lease:
-- name/ms. Streams that were empty for a minute are deleted (not earlier: numbers of entries are leases, and must not
-- come again), consumers that own nothing with them.
local default_lease, most, own, dead = unpack(args)
local EMPTY_FOR = 60000
local LEVELS = {'s', 'a', 'f', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local queues = redis.call('SMEMBERS', base .. ':queues')
local known = {}
for _, queue in ipairs(queues) do
    known[queue] = true
end
for _, queue in ipairs(own) do
    if not known[queue] then
        queues[#queues + 1] = queue
    end
end
local strays, suspects, count = {}, {}, 0
-- While the server was down nobody could renew: the living are given time for that before anybody counts as dead.
local uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)') or '') or math.huge
local PATIENCE = 0.6

local is_dead = {}
for _, name in ipairs(dead) do
    is_dead[name] = true
end

local function suspects_of(consumer)
    if not suspects[consumer] then
        local found = 0
        for _, queue in ipairs(queues) do
            local held = redis.pcall('XPENDING', queue_key(queue, 's'), GROUP, '-', '+', 2, consumer)
            found = found + (held.err and 0 or #held)
        end
        suspects[consumer] = found
    end
    return suspects[consumer]
end

local function look_at(queue, level, key)
    local consumers = redis.pcall('XINFO', 'CONSUMERS', key, GROUP)
    if consumers.err then
        return
    end
    for _, each in ipairs(consumers) do
        local consumer = fields_of(each)
        local lease = tonumber(string.match(consumer.name, '/(%d+)$')) or default_lease
        if is_dead[string.match(consumer.name, '^(.*)#%x+/%d+$') or ''] then
            lease = 0
        elseif #dead > 0 then
            lease = math.huge
        end
        if lease == math.huge then
            -- not asked for
        elseif lease > 0 and consumer.pending > 0 and uptime * 1000 < lease * PATIENCE then
            return -- too early to tell
        elseif consumer.pending > 0 then
            local held = redis.call(
                'XPENDING', key, GROUP, 'IDLE', string.format('%.0f', lease), '-', '+', most, consumer.name
            )
            for _, stray in ipairs(held) do
                strays[#strays + 1] = {queue, level, stray[1], consumer.name}
            end
        elseif consumer.idle > math.max(lease * 4, EMPTY_FOR) then
            redis.call('XGROUP', 'DELCONSUMER', key, GROUP, consumer.name)
        end
    end
end

local function is_over(key)
    if redis.call('XLEN', key) > 0 then
        return false
    end
    local last = fields_of(redis.call('XINFO', 'STREAM', key))['last-generated-id']
    return tonumber(string.match(last, '^%d+')) < now - EMPTY_FOR
end

local is_all_empty = true
for _, queue in ipairs(queues) do
    local is_empty = true
    for _, level in ipairs(LEVELS) do
        local key = queue_key(queue, level)
        local kind = type_of(key)
        if kind == 'stream' then
            look_at(queue, level, key)
            if is_over(key) then
                redis.call('DEL', key)
            else
                is_empty = false
            end
        end
    end
    if redis.call('EXISTS', queue_key(queue, 'delayed'), queue_key(queue, 'lanes')) > 0 then
        is_empty = false
    end
    is_all_empty = is_all_empty and is_empty
    if not is_empty and not known[queue] then
        redis.call('SADD', base .. ':queues', queue) -- somebody deleted it
    end
    if is_empty and redis.call('EXISTS', queue_key(queue, 'dead')) == 0 then
        redis.call('SREM', base .. ':queues', queue)
    end
end
if is_all_empty then
    redis.call('DEL', IDS) -- what a deleted or trimmed stream left there
end

-- First count, then move: a suspect that was moved is not pending any more.
for _, stray in ipairs(strays) do
    suspects_of(stray[4])
end
for _, stray in ipairs(strays) do
    if count < most then
        local queue, level, id, consumer = unpack(stray)
        local key = held_message(queue, level, id)
        local charge = level == 's' and suspects_of(consumer) == 1 and 1 or 0
        local deaths, charges = 0, 0
        if key then
            deaths, charges = deaths_of(key)
            note_deaths(key, deaths + 1, charges + charge) -- before it moves: that says where to
        end
        if give_back(queue, level, id, false) then
            count = count + 1
            if key then
                local blames = base .. ':blames:' .. consumer
                redis.call('HSET', blames, key, charge)
                redis.call('EXPIRE', blames, BLAMES_KEPT)
            end
        elseif key then
            note_deaths(key, deaths, charges) -- it stays, and is found again
        end
    end
end
wake()
return count
