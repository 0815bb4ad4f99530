-- Marks on the owner that a target has committed a point, and bookmarks its snapshots: the reserve base.
--
-- For each: anchor, epoch, property, value; count, then snapshot and bookmark of each.
args = ...
argv = args["argv"]
at = 0

function take_arg()
    at = at + 1
    return argv[at]
end

function record(anchor, epoch, name, value, bookmarks)
    if not zfs.exists(anchor) then
        return "AnchorMissing " .. anchor
    end
    local marked = tonumber(zfs.get_prop(anchor, "holdfast:epoch") or "0")
    if marked > epoch then
        return "EpochRefused " .. marked
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

answers = {}
while at < #argv do
    local anchor, epoch, name, value = take_arg(), tonumber(take_arg()), take_arg(), take_arg()
    local bookmarks = {}
    for n = 1, tonumber(take_arg()) do
        bookmarks[n] = { take_arg(), take_arg() }
    end
    answers[#answers + 1] = record(anchor, epoch, name, value, bookmarks)
end
return answers
