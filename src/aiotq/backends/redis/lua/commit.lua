-- What finished tasks do to the world, each in one step (P3).
-- ARGV: line, number, the sender's clock (s), retention of dead letters (ms), finishes {delivery or false, kind, reason,
-- detail, record or false, envelopes, and, if there is any, joining and further records, and a change of a schedule},
-- columns; then the records of each column. A column {queue, level, entries, lives, reply_to or false, and, if the
-- index is to have them, {state, most entries, seconds, packed entries}, and, if they free their keys, names and marks
-- of these} is of finishes that are an acknowledgement and a record, and nothing else; the records, `results` and a packed list of ids and values, are what the process that waits
-- for them is told. A life is in milliseconds.
-- RETURNS: a byte for each, those of columns first: 1 done, 0 its lease was lost, or its change of a schedule refused.
-- Keeps: a number that was used is refused; a finish whose lease was lost writes nothing.
local line, number, clock, retention, finishes, columns = unpack(args)
if number <= line_state(line) then
    return redis.error_reply('ERR aiotq: this commit was given up by its sender')
end
local offset = now - clock * 1000
redis.call('HLEN', IDS)
redis.call('SCARD', base .. ':queues')
keep_line(line, number, '') -- the first write: if Redis has no memory left, it fails here, and nothing is half done
local answers, following = {}, {}

local function write_column(column, told)
    local queue, level, entries, lives, reply_to, listing, freed = unpack(column, 1, 7)
    local key = queue_key(queue, level)
    local _, records = cmsgpack.unpack_one(told, 8) -- behind "results" and a line feed
    local ids, written, is_whole = {}, {}, true
    for i, entry in ipairs(entries) do
        ids[i] = records[2 * i - 1]
        local is_ours = was_held(key, entry)
        answers[#answers + 1] = is_ours and '\1' or '\0'
        written[i] = is_ours and put_value(ids[i], records[2 * i], lives[i])
        is_whole = is_whole and written[i]
        if written[i] and listing then
            list_finished(listing[1], listing[4][i], listing[2], listing[3])
        end
        if is_ours then
            if freed then
                keys().free_key(freed[2 * i - 1], freed[2 * i])
            end
            acknowledge(key, entry, ids[i])
        end
    end
    if is_whole and not is_watched then
        if reply_to then
            redis.call('PUBLISH', base .. ':to:' .. reply_to, told)
        end
        return
    end
    for i, id in ipairs(ids) do
        if written[i] then
            push_to_all(id, records[2 * i], reply_to)
        end
    end
end

for i, column in ipairs(columns) do
    write_column(column, ARGV[i + 1])
end
for _, finish in ipairs(finishes) do
    local i = #answers + 1
    local delivery, kind, reason, detail, record, envelopes, joining, further, schedule = unpack(finish)
    local fate = schedule and schedules().change_schedule(schedule) or 'write'
    if delivery and not messages().settle(delivery, kind, reason, detail, retention) then
        answers[i] = '\0'
    elseif fate ~= 'write' then
        answers[i] = fate == 'refused' and '\0' or '\1'
    else
        answers[i] = '\1'
        for _, envelope in ipairs(write_outcome(record, envelopes, joining, further, offset)) do
            following[#following + 1] = envelope
        end
    end
end
delete_acknowledged()
if #following > 0 then
    messages().add(following, offset, retention)
end
local all = table.concat(answers)
keep_line(line, number, all)
push_rest()
wake()
return all
