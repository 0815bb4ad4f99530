-- Commits recovery points on a target: every member present with its GUID, the epoch not overtaken, then the record,
-- all in one transaction. Superseded snapshots go in the same one: only with the GUID that was recorded for them.
--
-- For each guest: anchor, epoch, record's key, record;
--   count, then snapshot and GUID of each member;
--   count, then snapshot and GUID of each superseded one;
--   count, then each property to forget;
--   count, then property and value of each piece of the definition.
args = ...
argv = args["argv"]
at = 0

function take_arg()
    at = at + 1
    return argv[at]
end

function take_pairs()
    local found = {}
    for n = 1, tonumber(take_arg()) do
        found[n] = { take_arg(), take_arg() }
    end
    return found
end

function take_list()
    local found = {}
    for n = 1, tonumber(take_arg()) do
        found[n] = take_arg()
    end
    return found
end

function has_guid(snapshot, guid)
    return zfs.exists(snapshot) and string.format("%d", (zfs.get_prop(snapshot, "guid"))) == guid
end

-- A record proves that its point's snapshots are ours: it stays until they have gone.
function forget(anchor, names, superseded)
    local left = {}
    for _, snapshot in ipairs(superseded) do
        if zfs.exists(snapshot[1]) then
            left[#left + 1] = snapshot[1]
        end
    end
    for _, name in ipairs(names) do
        local suffix = "@holdfast-" .. string.sub(name, #"holdfast:point." + 1)
        local needed = string.sub(name, 1, #"holdfast:point.") ~= "holdfast:point." and #left > 0
        for _, snapshot in ipairs(left) do
            needed = needed or string.sub(snapshot, -#suffix) == suffix
        end
        if not needed then
            zfs.sync.inherit(anchor, name)
        end
    end
end

function commit(anchor, epoch, key, record, members, superseded, forgotten, pieces)
    if not zfs.exists(anchor) then
        return "AnchorMissing " .. anchor
    end
    local marked = tonumber(zfs.get_prop(anchor, "holdfast:epoch") or "0")
    if marked > epoch then
        return "EpochRefused " .. marked
    end
    for _, member in ipairs(members) do
        if not has_guid(member[1], member[2]) then
            return "MemberMissing " .. member[1]
        end
    end
    for _, piece in ipairs(pieces) do
        zfs.sync.set_prop(anchor, piece[1], piece[2])
    end
    zfs.sync.set_prop(anchor, "holdfast:epoch", string.format("%d", epoch))
    local code = zfs.sync.set_prop(anchor, key, record)
    if code ~= 0 then
        return "RecordFailed " .. code
    end
    for _, snapshot in ipairs(superseded) do
        if has_guid(snapshot[1], snapshot[2]) then
            zfs.sync.destroy(snapshot[1]) -- one that has a clone or a hold stays, and is tried again at the next commit
        end
    end
    forget(anchor, forgotten, superseded)
    return "ok"
end

answers = {}
while at < #argv do
    local anchor, epoch, key, record = take_arg(), tonumber(take_arg()), take_arg(), take_arg()
    local members, superseded, forgotten, pieces = take_pairs(), take_pairs(), take_list(), take_pairs()
    answers[#answers + 1] = commit(anchor, epoch, key, record, members, superseded, forgotten, pieces)
end
return answers
