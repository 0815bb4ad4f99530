-- Marks on the owner that a target has committed a point, and bookmarks its snapshots: the reserve base.
--
-- For each: anchor, epoch, property, value; count, then snapshot and bookmark of each.
function record()
    local anchor, epoch, name, value, bookmarks =
        take_arg(), tonumber(take_arg()), take_arg(), take_arg(), take_pairs()
    local why = refusal(anchor, epoch)
    if why then
        return why
    end
    for _, pair in ipairs(bookmarks) do
        zfs.sync.bookmark(pair[1], pair[2]) -- one that exists already is as good
    end
    local code = zfs.sync.set_prop(anchor, name, value)
    if code ~= 0 then
        return "RecordFailed " .. code
    end
    return "ok"
end

return each(record)
