#!/usr/bin/env bash
# The claim stampede and exchanges on PostgreSQL behind a gRPC service (with row locks, and with optimistic versions) and on
# Karat, by one load generator, alternately, so that every figure has its neighbour from the same minute. benches/README.md says what is
# fair here and what is not.
#
#   cargo build --release -p karat-engine -p karat-loadgen
#   cargo build --release -p karat-benches --features peers --bin karat-peer-postgres
#   bash benches/peers/postgres.sh FOLDER [RUNS] [SECONDS] [RATE]       3 runs of 10 seconds, 1000 claims a second
#
# Writes a result for each run into FOLDER and prints their table. Ends with an error when the books of a run do not close.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
. benches/runs.sh
mkdir -p "$1"
out=$(cd "$1" && pwd)
runs=${2:-3}
seconds=${3:-10}
rate=${4:-1000}
repository=$PWD

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
if [ -z "$bin" ] || [ ! -x "$bin/initdb" ]; then
    echo "skipped: PostgreSQL is not installed (Debian: apt-get install postgresql)"
    exit 0
fi
need karat karat-load karat-peer-postgres

chmod 711 "$work"
mkdir "$work/data" "$work/socket"
as=()
if [ "$(id -u)" = 0 ]; then
    # The server refuses to run as root.
    chown postgres "$work/data" "$work/socket"
    as=(runuser -u postgres --)
fi
server() { (cd "$work/socket" && "${as[@]}" "$@"); }
at_end() {
    stop_server
    server "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
}

server "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >/dev/null
# Its own folder for the socket and no TCP: no port that could be taken. fsync, full_page_writes and wal_sync_method
# (fdatasync) stay as they are.
cat >>"$work/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work/socket'
max_connections = 100
shared_buffers = 512MB
max_wal_size = 4GB
checkpoint_timeout = 30min
CONF
server "$bin/pg_ctl" -D "$work/data" -w -t 120 -l "$work/socket/log" start >/dev/null ||
    { cat "$work/socket/log" >&2; exit 1; }
sql() { server env PGOPTIONS='-c client_min_messages=warning' "$bin/psql" -h "$work/socket" -U postgres -q -v ON_ERROR_STOP=1 "$@"; }

# A target with nothing in it.
start() {
    case $1 in
    karat)
        rm -rf "$work/karat"
        start_server "$work/serve.log" "$binaries/karat" serve --data "$work/karat" --port 0
        ;;
    postgres-*)
        sql -c 'DROP SCHEMA public CASCADE; CREATE SCHEMA public'
        sql -f - <"$repository/benches/peers/postgres/schema.sql"
        sql -c CHECKPOINT
        start_server "$work/serve.log" "$binaries/karat-peer-postgres" --socket "$work/socket" --rule "${1#postgres-}"
        ;;
    esac
}

# run NAME NUMBER ARGUMENTS: the same load on each target.
run() {
    local name=$1 number=$2 one code
    shift 2
    for one in postgres-locked postgres-optimistic karat; do
        start "$one"
        code=0
        "$binaries/karat-load" run --target "$server_target" --quiet --verdict review \
            --seconds "$seconds" --floor-seconds 0 --drain-seconds 60 "$@" \
            --json "$work/run.json" >"$work/run.txt" || code=$?
        keep "$out" "$name-$one-$number" "$code"
        stop_server
    done
}

echo "load average before: $(cat /proc/loadavg)"
for number in $(seq "$runs"); do
    claims=(--scenario claim-stampede)
    run "claims-durable-$rate" "$number" "${claims[@]}" --ack durable --rate "$rate"
    run claims-durable-max "$number" "${claims[@]}" --ack durable --rate max
    run claims-durable-max-batch256 "$number" "${claims[@]}" --ack durable --rate max --batch 256
    run claims-sequenced-max "$number" "${claims[@]}" --ack sequenced --rate max
    # One under way on each stream: the peer answers messages of a stream side by side.
    run exchanges-durable-max "$number" --scenario exchange-legs --ack durable --rate max --streams 16 --window 16
done
echo "load average after: $(cat /proc/loadavg)"
"$bin/postgres" --version
"$binaries/karat-load" table "$out"
all_closed
