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
    local all_gone = true
    for _, snapshot in ipairs(superseded) do
        if has_guid(snapshot[1], snapshot[2]) and zfs.sync.destroy(snapshot[1]) ~= 0 then
            all_gone = false
        end
    end
    if all_gone then
        for _, name in ipairs(forgotten) do
            zfs.sync.inherit(anchor, name)
        end
    end
    return "ok"
end

answers = {}
while at < #argv do
    local anchor, epoch, key, record = take_arg(), tonumber(take_arg()), take_arg(), take_arg()
    local members, superseded, forgotten, pieces = take_pairs(), take_pairs(), take_list(), take_pairs()
    answers[#answers + 1] = commit(anchor, epoch, key, record, members, superseded, forgotten, pieces)
end
return answers
