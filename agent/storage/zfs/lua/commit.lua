-- Commits recovery points on a target: every member present with its GUID, the epoch not overtaken, then the record,
-- all in one transaction. Superseded snapshots go in the same one: only with the GUID that was recorded for them.
--
-- For each guest: anchor, epoch, record's key, record;
--   count, then snapshot and GUID of each member;
--   count, then snapshot and GUID of each superseded one;
--   count, then each property to forget;
--   count, then property and value of each piece of the definition.
function commit()
    local anchor, epoch, key, record = take_arg(), tonumber(take_arg()), take_arg(), take_arg()
    local members, superseded, forgotten, pieces = take_pairs(), take_pairs(), take_list(), take_pairs()
    local why = refusal(anchor, epoch)
    if why then
        return why
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

return each(commit)
