"""What `RedisStore` has Redis do in one step (Lua)."""

from cachestore.change_log import TELL

# The entry first: in a Redis that is full the first write is the one that is refused, so that
# there is never a record without its entry. pcall, so that the lease is given back also then:
# followers need not wait for an answer that will not come. Whose question has an answer of its own
# now is no alias of another's any more, or it would be again when its own ends first. Of a record
# from before nothing stays.
PUT = (
    TELL
    + b"""
if ARGV[1] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
local reply = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[1] ~= '' then redis.call('DEL', KEYS[3]) end
if reply.err then return reply end
redis.call('UNLINK', KEYS[2])
if KEYS[4] then
    redis.call('UNLINK', KEYS[4])
    redis.call('HSET', KEYS[4], unpack(ARGV, 6))
    redis.call('PEXPIRE', KEYS[4], ARGV[3])
    reply = tell(KEYS[5], ARGV[5], 'k', ARGV[4])
    if type(reply) == 'table' then return reply end
end
return 1
"""
)

# An alias holds its target's key from the fifth byte on. One that leads nowhere goes: an alias
# dies with its entry. The target's own alias is not looked at.
_FOLLOW = b"""
local function follow(name, prefix)
    local alias = redis.pcall('GET', name)
    if not alias then return false end
    local target
    if type(alias) == 'string' then
        target = redis.pcall('GET', prefix .. string.sub(alias, 5, 68))
    end
    if type(target) == 'string' then return {alias, target} end
    redis.call('UNLINK', name)
    return false
end
"""

GET = (
    _FOLLOW
    + b"""
return redis.call('GET', KEYS[1]) or follow(KEYS[2], ARGV[1])
"""
)

# One trip instead of two on every miss. The entry is a string, one that was come by through an
# alias a list of two, our lease the number 1, and somebody else's lease a list of one.
GET_OR_LEASE = (
    _FOLLOW
    + b"""
local found = redis.call('GET', KEYS[1]) or KEYS[3] and follow(KEYS[3], ARGV[3])
if found then return found end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return {redis.call('GET', KEYS[2])}
"""
)

PUT_ALIAS = b"""
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local life_ms = redis.call('PTTL', KEYS[3])
local reply = life_ms > 0 and redis.pcall('SET', KEYS[1], ARGV[2], 'PX', life_ms)
if ARGV[1] ~= '' then redis.call('DEL', KEYS[2]) end
if not reply then return 0 end
if reply.err then return reply end
return 1
"""

DELETE = (
    TELL
    + b"""
local gone = redis.call('UNLINK', KEYS[1], KEYS[2])
if redis.call('UNLINK', KEYS[3]) == 1 then
    local told = tell(KEYS[4], ARGV[2], 'k', ARGV[1])
    if type(told) == 'table' then return told end
end
return gone
"""
)

# Only what was looked at: a sound one may have been stored since.
DELETE_IF_SAME = b"""
if redis.call('TYPE', KEYS[1]).ok == 'string'
    and redis.sha1hex(redis.call('GET', KEYS[1])) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""
