-- What became of joins.
-- ARGV: ids.  RETURNS: for each {about, when it ended (s), 1 if it failed, {member, packed {id, value} of its record,
-- ...}}; false if it is not over or not known.
-- Keeps: it writes nothing.
local answers = {}
for i, id in ipairs(args[1]) do
    local fields = redis.pcall('HMGET', join_key(id), 'open', 'about', 'ended', 'failed')
    answers[i] = false
    if not fields.err and fields[1] == '0' then
        local members = redis.pcall('HGETALL', join_key(id) .. ':in')
        answers[i] = {fields[2] or '', fields[3] or '0', fields[4] or '0', members.err and {} or members}
    end
end
return answers
