-- Reserve starts under rate limits.
-- ARGV: bookings {id of a message, name, interval (ms), burst, whether it may wait for other limits after this one, for
-- how long its start counts after it (ms)}.
-- RETURNS: packed milliseconds until each start.
-- Keeps: the starts of one name are an interval apart, but for bursts after a pause; a message keeps the start it has,
-- unless it passed long ago.
-- {base}:start:{name}: the next free start (ms), but for a burst.  {base}:booked:{id}: the start of a message (ms).
local bookings = unpack(args)
local BOOKING_KEPT = 60000
local waits = {}
for i, booking in ipairs(bookings) do
    local id, name, interval, burst, is_first, kept = unpack(booking)
    local own, free = base .. ':booked:' .. id, base .. ':start:' .. name
    local start = tonumber(redis.call('GET', own) or nil)
    if not start or now - start > kept then
        local free_at = math.max(tonumber(redis.call('GET', free) or nil) or now, now)
        start = math.max(now, free_at - (burst - 1) * interval)
        local later = free_at + interval
        redis.call('SET', free, string.format('%.3f', later), 'PX', milliseconds(later - now + 1))
        if start > now or is_first then
            redis.call('SET', own, string.format('%.3f', start), 'PX', milliseconds(start - now + kept + BOOKING_KEPT))
        end
    end
    waits[i] = math.max(start - now, 0)
end
return cmsgpack.pack(waits)
