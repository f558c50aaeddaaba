# For scripts that load a server of their own; to be sourced.

# start_server LOG COMMAND...
# Runs COMMAND in the background with its output in LOG, and waits for the loopback address that it says it listens on, two
# minutes at most. Sets server_pid, and server_target to http://ADDRESS. When the server ends before or says nothing: shows
# LOG, and returns 1.
start_server() {
    local log=$1
    shift
    server_target=""
    "$@" >"$log" 2>&1 &
    server_pid=$!
    for _ in $(seq 1200); do
        # Either "realm NAME at ADDRESS (gRPC)", or "listening on http://ADDRESS".
        server_target=$(sed -n -e 's|^realm [^ ]* at \(127\.0\.0\.1:[0-9]*\).*|http://\1|p' \
            -e 's|^listening on \(http://127\.0\.0\.1:[0-9]*\).*|\1|p' "$log" | sed -n 1p)
        [ -z "$server_target" ] || return 0
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$log" >&2
    echo "$1 did not say where it listens" >&2
    return 1
}
