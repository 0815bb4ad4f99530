-- Destroys superseded snapshots of a guest on its owner: only under an epoch that is not overtaken, and only a snapshot
-- that still has the GUID that was recorded for it. One that cannot go does not keep the others.
--
-- For each guest: anchor, epoch; count, then snapshot and GUID of each; count, then each property to forget.
args = ...
argv = args["argv"]
at = 0

function take_arg()
    at = at + 1
    return argv[at]
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

function destroy(anchor, epoch, doomed, forgotten)
    if not zfs.exists(anchor) then
        return "AnchorMissing " .. anchor
    end
    local marked = tonumber(zfs.get_prop(anchor, "holdfast:epoch") or "0")
    if marked > epoch then
        return "EpochRefused " .. marked
    end
    local failed = nil
    for _, snapshot in ipairs(doomed) do
        if zfs.exists(snapshot[1]) then
            if string.format("%d", (zfs.get_prop(snapshot[1], "guid"))) ~= snapshot[2] then
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

answers = {}
while at < #argv do
    local anchor, epoch, doomed, forgotten = take_arg(), tonumber(take_arg()), {}, {}
    for n = 1, tonumber(take_arg()) do
        doomed[n] = { take_arg(), take_arg() }
    end
    for n = 1, tonumber(take_arg()) do
        forgotten[n] = take_arg()
    end
    answers[#answers + 1] = destroy(anchor, epoch, doomed, forgotten)
end
return answers
