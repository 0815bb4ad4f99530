-- What all programs begin with: the reading of their arguments, and the check that stale actors fail (invariant 5).
-- ZFS's Lua has no `require`: this text is put before each program.
args = ...
argv = args["argv"]
at = 0

function take_arg()
    at = at + 1
    return argv[at]
end

-- A count, then so many pairs.
function take_pairs()
    local found = {}
    for n = 1, tonumber(take_arg()) do
        found[n] = { take_arg(), take_arg() }
    end
    return found
end

-- A count, then so many.
function take_list()
    local found = {}
    for n = 1, tonumber(take_arg()) do
        found[n] = take_arg()
    end
    return found
end

-- Runs `order`, which reads its own arguments, until there are no more of them. One guest's answer is not another's.
function each(order)
    local answers = {}
    while at < #argv do
        answers[#answers + 1] = order()
    end
    return answers
end

-- Why nothing may be changed under this anchor and epoch; nil if it may.
function refusal(anchor, epoch)
    if not zfs.exists(anchor) then
        return "AnchorMissing " .. anchor
    end
    local marked = tonumber(zfs.get_prop(anchor, "holdfast:epoch") or "0")
    if marked > epoch then
        return "EpochRefused " .. marked
    end
    return nil
end

-- get_prop returns value and source; as the last argument of a call both would be passed.
function property(dataset, name)
    local value = zfs.get_prop(dataset, name)
    return value
end

function has_guid(snapshot, guid)
    return zfs.exists(snapshot) and string.format("%d", property(snapshot, "guid")) == guid
end

-- Forgets records and pieces of definitions. A record proves that its point's snapshots are ours: it stays until they
-- have gone.
function forget(anchor, names, superseded)
    local left = {}
    for _, snapshot in ipairs(superseded) do
        if zfs.exists(snapshot[1]) then
            left[#left + 1] = snapshot[1]
        end
    end
    for _, name in ipairs(names) do
        local suffix = "-" .. string.sub(name, #"holdfast:point." + 1) -- a policy's prefix may stand before the number
        local needed = string.sub(name, 1, #"holdfast:point.") ~= "holdfast:point." and #left > 0
        for _, snapshot in ipairs(left) do
            needed = needed or string.sub(snapshot, -#suffix) == suffix
        end
        if not needed then
            zfs.sync.inherit(anchor, name)
        end
    end
end
