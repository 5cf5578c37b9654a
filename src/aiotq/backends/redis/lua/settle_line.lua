-- What became of a write whose reply was lost.
-- ARGV: line, number.  RETURNS: {1, answers} if it was done, {0, ''} if not.
-- Keeps: after {0, ''} the write is refused when it arrives late, and asking again answers the same.
local number, answers = line_state(args[1])
if number == args[2] and answers ~= '' then -- no answers: it was given up, and is remembered as that
    return {1, answers}
end
keep_line(args[1], args[2], '')
return {0, ''}
