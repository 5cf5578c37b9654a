-- What finished tasks do to the world, each in one step (P3).
-- ARGV: line, number, the sender's clock (s), retention of dead letters (ms), finishes {delivery or false, kind, reason,
-- detail, record or false, envelopes, and, if there is any, joining and further records, and a change of a schedule}.
-- RETURNS: a byte for each: 1 done, 0 its lease was lost, or its change of a schedule refused.
-- Keeps: a number that was used is refused; a finish whose lease was lost writes nothing.
local line, number, clock, retention, finishes = unpack(args)
if number <= line_state(line) then
    return redis.error_reply('ERR aiotq: this commit was given up by its sender')
end
local offset = now - clock * 1000
redis.call('HLEN', IDS)
redis.call('SCARD', base .. ':queues')
keep_line(line, number, '') -- the first write: if Redis has no memory left, it fails here, and nothing is half done
local answers, following = {}, {}
for i, finish in ipairs(finishes) do
    local delivery, kind, reason, detail, record, envelopes, joining, further, schedule = unpack(finish)
    local fate = schedule and change_schedule(schedule) or 'write'
    if delivery and not settle(delivery, kind, reason, detail, retention) then
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
add(following, offset, retention)
local all = table.concat(answers)
keep_line(line, number, all)
push_rest()
wake()
return all
