-- Settle deliveries.
-- ARGV: line, number, retention of dead letters (ms), settlements {delivery, kind, reason, detail}.
-- RETURNS: a byte for each, 1 settled, 0 its lease was lost.
-- Keeps: a number that was used is refused; one whose lease was lost changes nothing.
local line, number, retention, settlements = unpack(args)
if number <= line_state(line) then
    return redis.error_reply('ERR aiotq: this write was given up by its sender')
end
keep_line(line, number, '') -- the first write: if Redis has no memory left, it fails here, and nothing is half done
local answers = {}
for i, settlement in ipairs(settlements) do
    local delivery, kind, reason, detail = unpack(settlement)
    answers[i] = settle(delivery, kind, reason, detail, retention) and '\1' or '\0'
end
delete_acknowledged()
local all = table.concat(answers)
keep_line(line, number, all)
wake()
return all
