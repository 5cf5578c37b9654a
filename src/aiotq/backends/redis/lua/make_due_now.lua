-- Make delayed messages due now.
-- ARGV: ids of messages.
-- RETURNS: a byte for each, 1: it is due, 0: it does not wait.
-- Keeps: a message is in the broker once.
local answers = {}
for i, id in ipairs(args[1]) do
    answers[i] = hurry(id) and '\1' or '\0'
end
return table.concat(answers)
