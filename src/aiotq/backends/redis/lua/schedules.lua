-- Rows of periodic tasks. A library: scripts on schedules include it after `keys`.
--
-- {base}:schedules:{app}     hash: the name of a periodic task -> {mark, body, unsent envelopes}. It stays until the
--                            task is removed.
-- {base}:schedule-revisions  hash: app -> how many changes were to be looked at. It stays as well.
--
-- The mark of a row that can't be read is '?'.

local function schedules_key(scope)
    return base .. ':schedules:' .. scope
end

local function mark_of(row)
    local is_ours, kept = pcall(cmsgpack.unpack, row)
    return is_ours and type(kept) == 'table' and type(kept[1]) == 'string' and kept[1] or '?'
end

-- Write a row if its mark is the one that was seen. Return 'write', 'done' (before) or 'refused'.
local function change_schedule(change)
    local scope, name, seen, mark, body, unsent, tells, lasts = unpack(change)
    if lasts then
        return keys().change_key(change)
    end
    local key = schedules_key(scope)
    local row = redis.call('HGET', key, name)
    local there = row and mark_of(row) or ''
    if there ~= seen then
        return there == mark and 'done' or 'refused'
    end
    if mark == '' then
        redis.call('HDEL', key, name)
    else
        redis.call('HSET', key, name, cmsgpack.pack({mark, body, unsent}))
    end
    if tells then
        redis.call('HINCRBY', base .. ':schedule-revisions', scope, 1)
    end
    return 'write'
end
