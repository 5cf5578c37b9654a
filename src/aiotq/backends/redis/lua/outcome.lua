-- What comes of a run beside the end of its message. A library: it wants `results`, and `joins` late.

-- Write what came of one run; return all that is to be sent now. Most runs have nothing for `joining` and `further`.
local function write_outcome(record, envelopes, joining, further, offset)
    if joining then
        joins().write_joining(joining, record, envelopes, offset)
    end
    if record then
        put_record(record, offset)
    end
    for _, each in ipairs(further or {}) do
        put_record(each, offset)
    end
    return envelopes
end
