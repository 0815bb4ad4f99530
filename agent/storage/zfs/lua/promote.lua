-- Lets clones have the history that they come from: only under an epoch that is not overtaken, and only where that is the
-- snapshot that was meant.
--
-- For each: anchor, epoch, clone, the snapshot that it is of, its GUID.
function promote()
    local anchor, epoch, clone, origin, guid = take_arg(), tonumber(take_arg()), take_arg(), take_arg(), take_arg()
    local why = refusal(anchor, epoch)
    if why then
        return why
    end
    if not zfs.exists(clone) then
        return "VolumeMissing " .. clone
    end
    if not has_guid(origin, guid) then
        return "GuidDiffers " .. origin
    end
    local code = zfs.sync.promote(clone)
    if code ~= 0 then
        return "PromoteFailed " .. clone .. " " .. code
    end
    return "ok"
end

return each(promote)
