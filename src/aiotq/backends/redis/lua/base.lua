-- What every script begins with.
-- KEYS[1]: the base of all keys. ARGV[1]: the arguments as one MessagePack array; absent values are false.
local base = KEYS[1]
local args = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
-- Milliseconds since the epoch, by the server's clock: the only one that due times and leases are held against.
local now = time[1] * 1000 + time[2] / 1000

-- Lines: the last number of each sender, with the answers it was given. Seconds; a sender repeats within minutes.
local LINE_KEPT = 3600

local function line_key(line)
    return base .. ':line:' .. line
end

-- The last number of a line and its answers.
local function line_state(line)
    local kept = redis.call('GET', line_key(line))
    if not kept then
        return 0, ''
    end
    local state = cmsgpack.unpack(kept)
    return state[1], state[2]
end

local function keep_line(line, number, answers)
    redis.call('SET', line_key(line), cmsgpack.pack({number, answers}), 'EX', LINE_KEPT)
end

-- Call `command` with `keys` (or ids, members) after its first arguments, a few thousand at a time: Lua's stack ends
-- at 8000. Return the replies one after another.
local function in_chunks(command, key, values)
    local replies = {}
    for from = 1, #values, 4000 do
        local reply = redis.call(command, key, unpack(values, from, math.min(from + 3999, #values)))
        if type(reply) == 'table' then
            for _, each in ipairs(reply) do
                replies[#replies + 1] = each
            end
        end
    end
    return replies
end
