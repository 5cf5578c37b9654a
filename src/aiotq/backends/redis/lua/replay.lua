-- Send dead letters to their queues again, with no deaths to their name.
-- ARGV: retention of dead letters (ms), {{queue, entry, id, share or nil}, …}.  RETURNS: how many were sent.
-- One whose message is in the broker again, under the same id, goes: it would be added only once.
local retention, letters = unpack(args)
local count = 0
for _, letter in ipairs(letters) do
    local queue, id, key, share = unpack(letter, 1, 4)
    local dead = queue_key(queue, 'dead')
    local fields = entry(dead, id)
    if fields then
        add({{queue, tonumber(fields.p) or 4, false, key, fields.m, share}}, 0, retention)
        redis.call('XDEL', dead, id)
        count = count + 1
    end
end
wake()
return count
