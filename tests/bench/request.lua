-- Drives one request over and over. Arguments: the method, the path, the milliseconds that each connection waits
-- between its requests, a file with the body or "-", a file with access tokens or "-", then headers as "Name: value". "@N@" in the
-- body is another number in each request, and each request has another token. Prints one line of JSON at the end.

local pause, number, body, path, tokens = 0, 0, nil, "/", {}

function init(args)
  wrk.method, path, pause = args[1], args[2], tonumber(args[3])
  if args[4] ~= "-" then
    local file = assert(io.open(args[4], "rb"))
    body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
  end
  if args[5] ~= "-" then
    for line in io.lines(args[5]) do tokens[#tokens + 1] = line end
  end
  for n = 6, #args do
    local name, value = args[n]:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
  number = os.time() * 1000000
  local fixed = wrk.format(nil, path, nil, body)
  local varies = body and body:find("@N@", 1, true)
  request = function()
    if not varies and #tokens == 0 then return fixed end
    number = number + 1
    if #tokens > 0 then wrk.headers["Authorization"] = "Bearer " .. tokens[number % #tokens + 1] end
    if not varies then return wrk.format(nil, path, nil, body) end
    return wrk.format(nil, path, nil, (body:gsub("@N@", string.format("%.0f", number))))
  end
end

function delay()
  return pause
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\n',
    summary.requests, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
