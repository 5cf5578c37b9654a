-- Write rows of periodic tasks, and of keys.
-- ARGV: changes {app, name, mark that was seen, new mark, body, unsent envelopes, whether to tell, seconds that a row of
-- a key lasts or false}.
-- RETURNS: for each 1, or 0: it was refused.
-- Keeps: a row is written by whoever saw it as it is.
local answers = {}
for i, change in ipairs(args[1]) do
    answers[i] = change_schedule(change) == 'refused' and 0 or 1
end
return answers
