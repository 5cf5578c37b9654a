-- Reserve starts under rate limits.
-- ARGV: bookings {id of a message, name, interval (ms)}, grace (ms).  RETURNS: packed milliseconds until each start.
-- Keeps: the starts of one name are an interval apart; a message keeps the start it has, unless it passed long ago.
-- {base}:start:{name}: the next free start (ms).  {base}:booked:{id}: the start of a message (ms).
local bookings, grace = unpack(args)
local BOOKING_KEPT = 60000
local waits = {}
for i, booking in ipairs(bookings) do
    local id, name, interval = unpack(booking)
    local own, free = base .. ':booked:' .. id, base .. ':start:' .. name
    local start = tonumber(redis.call('GET', own) or nil)
    if not start or now - start > math.max(interval, grace) then
        start = math.max(tonumber(redis.call('GET', free) or nil) or now, now)
        redis.call('SET', free, string.format('%.3f', start + interval), 'PX', milliseconds(start + interval - now + 1))
        if start > now then
            redis.call('SET', own, string.format('%.3f', start), 'PX', milliseconds(start - now + BOOKING_KEPT))
        end
    end
    waits[i] = math.max(start - now, 0)
end
return cmsgpack.pack(waits)
