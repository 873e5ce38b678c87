-- wrk: every request is for another picture. `thread` numbers keep threads apart.
local threads = 0
function setup(thread)
    thread:set("id", threads)
    threads = threads + 1
end
local count = 0
function request()
    count = count + 1
    local seed = id * 1000000000 + (start_seed or 0) + count
    return wrk.format("GET", "/v1/images/fake/" .. count % 1000 .. "/" .. string.format("%d", seed) .. ".png")
end
function init(args)
    start_seed = tonumber(args[1] or "0") * 10000000
end
