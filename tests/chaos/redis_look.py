"""All that an app keeps in a Redis, at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from aiotq.exceptions import MalformedMessage
from aiotq.wire.message import unpack

#: What `{aiotq}` holds, in one step: messages {level, entry, m, k}, holdings {level, entry, consumer, idle ms}, packed
#: delayed messages, results {id, head}, dead letters {m, reason}, deaths {id, count}, known ids {id, where},
#: joins that are open, keys that never expire.
LOOK: Final = """
local base = KEYS[1]
local LEVELS = {'s', 'a', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local messages, held, delayed, results, dead, deaths, joins, lasting = {}, {}, {}, {}, {}, {}, 0, {}
local function kind(key) return redis.call('TYPE', key).ok end
local function field(list, name)
    for i = 1, #list, 2 do
        if list[i] == name then return list[i + 1] end
    end
    return false
end
for _, queue in ipairs(redis.call('SMEMBERS', base .. ':queues')) do
    for _, level in ipairs(LEVELS) do
        local key = base .. ':q:' .. queue .. ':' .. level
        if kind(key) == 'stream' then
            for _, each in ipairs(redis.call('XRANGE', key, '-', '+')) do
                messages[#messages + 1] = {key, each[1], field(each[2], 'm'), field(each[2], 'k')}
            end
            local pending = redis.pcall('XPENDING', key, 'aiotq', '-', '+', 1000000)
            for _, each in ipairs(pending.err and {} or pending) do
                held[#held + 1] = {key, each[1], each[2], each[3]}
            end
        end
    end
    local key = base .. ':q:' .. queue .. ':delayed'
    if kind(key) == 'zset' then
        for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do delayed[#delayed + 1] = member end
    end
    for _, each in ipairs(redis.call('XRANGE', base .. ':q:' .. queue .. ':dead', '-', '+')) do
        dead[#dead + 1] = {each[1], field(each[2], 'm'), field(each[2], 'r'), field(each[2], 'd')}
    end
end
for _, key in ipairs(redis.call('KEYS', base .. ':*')) do
    local name = string.sub(key, #base + 2)
    local task_id = string.match(name, '^result:(.*)$')
    if task_id then
        results[#results + 1] = {task_id, string.match(redis.call('GET', key), '^[^\\n]*')}
    end
    task_id = string.match(name, '^deaths:(.*)$')
    if task_id then deaths[#deaths + 1] = {task_id, tonumber(redis.call('HGET', key, 'deaths')) or 0} end
    if string.match(name, '^join:') and kind(key) == 'hash' and redis.call('HGET', key, 'open') == '1' then
        joins = joins + 1
    end
    if redis.call('TTL', key) == -1 then lasting[#lasting + 1] = name end
end
return {messages, held, delayed, results, dead, deaths, redis.call('HGETALL', base .. ':ids'), joins, lasting}
"""


class Look:
    """What a Redis held at one moment."""

    def __init__(self, found: Sequence[Any]) -> None:
        messages, holdings, delayed, results, dead, deaths, ids, self.open_joins, lasting = found
        self.held = {(key, entry): (consumer, idle) for key, entry, consumer, idle in holdings}
        self.entries = {(key, entry): _key_of(blob, key_field) for key, entry, blob, key_field in messages}
        self.delayed = [_key_of_delayed(member) for member in delayed]
        self.results = {task_id.decode(): head for task_id, head in results}
        self.dead = [(_key_of(blob, None) or entry.decode(), reason, detail) for entry, blob, reason, detail in dead]
        self.deaths = {task_id.decode(): count for task_id, count in deaths}
        self.known = {task_id.decode() for task_id in ids[::2]}
        self.lasting = {name.decode() for name in lasting}

    @property
    def keys(self) -> list[str | None]:
        return [*self.entries.values(), *self.delayed]


def _key_of_delayed(member: bytes) -> str | None:
    try:
        key, _, _, blob = msgpack.unpackb(member, raw=True)
        return _key_of(blob, key)
    except (ValueError, TypeError, AttributeError):
        return None


def _key_of(blob: bytes | None, key_field: bytes | None) -> str | None:
    """Return id and attempt as the scripts know a message by them; None if it can't be read."""
    if key_field:
        return key_field.decode("utf-8", "replace")
    try:
        message = unpack(blob or b"")
    except MalformedMessage:
        return None
    return f"{message.id}\t{message.attempt}" if message.attempt else message.id


def id_of(key: str) -> str:
    return key.partition("\t")[0]


def state_of(head: bytes) -> str:
    return head.partition(b'"')[2].partition(b'"')[0].decode()
