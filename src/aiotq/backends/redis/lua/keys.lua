-- Rows of keys, all of which expire. A library: scripts on joins and on schedules include it late, after `results`.
--
-- {base}:key:{name}       string: packed {mark, body, unsent envelopes}. The mark of a row that can't be read is '?'.

local function mark_of_key(key)
    local row = redis.pcall('GET', key)
    if not row then
        return ''
    end
    local is_ours, kept = pcall(cmsgpack.unpack, row)
    return is_ours and type(kept) == 'table' and type(kept[1]) == 'string' and kept[1] or '?'
end

-- Delete the row of a key if its mark is the one that was seen.
local function free_key(name, seen)
    local key = base .. ':key:' .. name
    if mark_of_key(key) == seen then
        redis.call('DEL', key)
    end
end

-- Write the row of a key if its mark is the one that was seen. Return 'write', 'done' (before) or 'refused'.
local function change_key(change)
    local _, name, seen, mark, body, unsent, _, lasts = unpack(change)
    local key = base .. ':key:' .. name
    local there = mark_of_key(key)
    if there ~= seen then
        return there == mark and 'done' or 'refused'
    end
    if mark == '' then
        redis.call('DEL', key)
    else
        redis.call('SET', key, cmsgpack.pack({mark, body, unsent}), 'PX', milliseconds(lasts * 1000))
    end
    return 'write'
end
