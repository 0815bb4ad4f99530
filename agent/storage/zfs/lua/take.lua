-- Takes recovery points: all snapshots of a guest on this pool and the record of the point, in one transaction group.
-- Guards "no mixture" (one instant) and "stale actors are powerless" (the epoch is compared in the same transaction).
--
-- For each guest: anchor, epoch, snapshot's short name, record's key, record's head,
--   count, then for each volume: dataset, snapshot to use again if nothing was written since (or ""), its GUID,
--     and the head of the member's JSON;
--   count, then property and value of each piece of the definition.
-- A member's JSON ends with the snapshot that was taken and its GUID; a record ends with "]}".
function read_guest()
    local guest = { anchor = take_arg(), epoch = tonumber(take_arg()), snapshot = take_arg(), key = take_arg(),
                    head = take_arg(), volumes = {} }
    for n = 1, tonumber(take_arg()) do
        guest.volumes[n] = { dataset = take_arg(), reuse = take_arg(), reuse_guid = take_arg(), head = take_arg() }
    end
    guest.pieces = take_pairs()
    return guest
end

function obstacle(guest)
    local why = refusal(guest.anchor, guest.epoch)
    if why then
        return why
    end
    for _, volume in ipairs(guest.volumes) do
        if not zfs.exists(volume.dataset) then
            return "VolumeMissing " .. volume.dataset
        end
        local code = zfs.check.snapshot(volume.dataset .. "@" .. guest.snapshot)
        if code ~= 0 then
            return "SnapshotFailed " .. volume.dataset .. " " .. code
        end
    end
    return nil
end

-- The member to record: the snapshot just taken, or the one before if nothing was written in between; the new one
-- then goes again, so that an idle disk costs no stream.
function member(guest, volume)
    local taken = volume.dataset .. "@" .. guest.snapshot
    local name, guid = guest.snapshot, property(taken, "guid")
    if volume.reuse ~= "" then
        local before = volume.dataset .. "@" .. volume.reuse
        if has_guid(before, volume.reuse_guid) and property(volume.dataset, "written@" .. volume.reuse) == 0 then
            if zfs.sync.destroy(taken) == 0 then
                name, guid = volume.reuse, property(before, "guid")
            end
        end
    end
    return volume.head .. '"snapshot":"' .. name .. '","guid":' .. string.format("%d", guid) .. "}"
end

function take()
    local guest = read_guest()
    local why = obstacle(guest)
    if why then
        return why
    end
    for _, volume in ipairs(guest.volumes) do
        local code = zfs.sync.snapshot(volume.dataset .. "@" .. guest.snapshot)
        if code ~= 0 then
            return "SnapshotFailed " .. volume.dataset .. " " .. code
        end
    end
    local members = ""
    for n, volume in ipairs(guest.volumes) do
        members = members .. (n > 1 and "," or "") .. member(guest, volume)
    end
    for _, piece in ipairs(guest.pieces) do
        zfs.sync.set_prop(guest.anchor, piece[1], piece[2])
    end
    zfs.sync.set_prop(guest.anchor, "holdfast:epoch", string.format("%d", guest.epoch))
    local record = guest.head .. members .. "]}"
    local code = zfs.sync.set_prop(guest.anchor, guest.key, record)
    if code ~= 0 then
        return "RecordFailed " .. code
    end
    return "ok " .. record
end

return each(take)
