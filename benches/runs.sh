# For scripts that take runs of karat-load against targets of their own; to be sourced in the repository's root.
#
# Gives: binaries; work, a folder that goes with the script; server_pid and server_target (deploy/start-server.sh);
# load_before. A script that has more to end than its server defines at_end.
. deploy/start-server.sh

binaries=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
load_before=$(cut -d' ' -f1-3 /proc/loadavg)
server_pid=""
failed=""

at_end() { :; }
end() {
    at_end
    stop_server
    rm -rf "$work"
}
trap end EXIT

# Ends what start_server began, if it still runs.
stop_server() {
    [ -n "$server_pid" ] || return 0
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=""
}

# need PROGRAM...: ends the script when one of them is not built.
need() {
    local program
    for program in "$@"; do
        [ -x "$binaries/$program" ] || { echo "$binaries/$program is not built; the commands stand in $0" >&2; exit 2; }
    done
}

# keep FOLDER NAME CODE: keeps what a run left in $work/run.json as FOLDER/NAME.json. CODE is how it ended; 3 is no failure: the
# books close, and the machine was too busy to generate the rate, which the report says. What it said is in $work/run.txt, and
# in $work/run.log where that is told apart.
keep() {
    local folder=$1 name=$2 code=$3
    if [ "$code" != 0 ] && [ "$code" != 3 ]; then
        cat "$work/run.txt" >&2
        [ ! -e "$work/run.log" ] || cat "$work/run.log" >&2
        echo "$name ended with $code" >&2
        failed="$failed $name"
    fi
    [ ! -s "$work/run.json" ] || cp "$work/run.json" "$folder/$name.json"
    rm -f "$work/run.json"
}

# What the runs' own JSON does not say of the machine.
machine_facts() {
    echo "date: $(date -u +%FT%TZ)"
    echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ", with changes")"
    echo "compiler: $(rustc --version)"
    echo "kernel: $(uname -sr)"
    echo "processors: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p)"
    echo "memory: $(awk '/^MemTotal/ {print int($2 / 1024) " MiB"}' /proc/meminfo)"
    echo "folder of the data: $(df --output=fstype "$work" | tail -1)"
    echo "load average before: $load_before"
    echo "load average after: $(cut -d' ' -f1-3 /proc/loadavg)"
}

# Ends with an error when a run failed.
all_closed() {
    [ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
}
