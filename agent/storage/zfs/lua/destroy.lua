-- Destroys superseded snapshots of a guest on its owner: only under an epoch that is not overtaken, and only a snapshot
-- that still has the GUID that was recorded for it. One that cannot go does not keep the others.
--
-- For each guest: anchor, epoch; count, then snapshot and GUID of each; count, then each property to forget.
function destroy()
    local anchor, epoch, doomed, forgotten = take_arg(), tonumber(take_arg()), take_pairs(), take_list()
    local why = refusal(anchor, epoch)
    if why then
        return why
    end
    local failed = nil
    for _, snapshot in ipairs(doomed) do
        if zfs.exists(snapshot[1]) then
            if not has_guid(snapshot[1], snapshot[2]) then
                return "GuidDiffers " .. snapshot[1]
            end
            local code = zfs.sync.destroy(snapshot[1])
            if code ~= 0 then
                failed = failed or "DestroyFailed " .. snapshot[1] .. " " .. code
            end
        end
    end
    forget(anchor, forgotten, doomed)
    return failed or "ok"
end

return each(destroy)
