#!/usr/bin/env bash
# The claim stampede and exchanges on PostgreSQL behind a gRPC service (with row locks, and with optimistic versions) and on
# Karat, by one load generator, alternately, so that every figure has its neighbour from the same minute. benches/README.md says what is
# fair here and what is not.
#
#   cargo build --release -p karat-engine -p karat-loadgen
#   cargo build --release -p karat-benches --features peers --bin karat-peer-postgres
#   bash benches/peers/postgres.sh FOLDER [RUNS] [SECONDS] [RATE] [CASES]    3 runs of 10 seconds, 1000 claims a second
#
# CASES is an extended regular expression of the cases' names, as in '^(claims|crowd)-durable-max'; all without it. A run
# takes some 3 seconds more than SECONDS, Karat's 5 to 20, and there are 18 for each of RUNS.
#
# Writes a result for each run into FOLDER and prints their table. Ends with an error when the books of a run do not close.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
. benches/runs.sh
mkdir -p "$1"
out=$(cd "$1" && pwd)
runs=${2:-3}
seconds=${3:-10}
rate=${4:-1000}
cases=${5:-.}
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
        printf '[agents]\nworkers = 2\n' >"$work/karat.toml"
        start_server "$work/serve.log" "$binaries/karat" serve --config "$work/karat.toml" --data "$work/karat" --port 0
        ;;
    postgres-*)
        sql -c 'DROP SCHEMA public CASCADE; CREATE SCHEMA public'
        sql -f - <"$repository/benches/peers/postgres/schema.sql"
        sql -c CHECKPOINT
        start_server "$work/serve.log" "$binaries/karat-peer-postgres" --socket "$work/socket" --rule "${1#postgres-}"
        ;;
    esac
}

# run NAME NUMBER ARGUMENTS: the same load on each target, if the case is wanted.
run() {
    local name=$1 number=$2 one code
    shift 2
    grep -qE -- "$cases" <<<"$name" || return 0
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
# What Karat's agents look at before a run begins, a millisecond each on two processors, is most of what a run takes beside its
# seconds. So there are as many assets as are claimed: fifty claims go to each in the stampede, a thousand in the crowd,
# which is for those that claim more than a million, and up to five, in all.
stampede() { echo --scenario claim-stampede --assets "$1"; }
crowd="--scenario benches/peers/crowd.toml --assets 5000"
open_assets=$((rate * (seconds + 1) / 50 + 100))
for number in $(seq "$runs"); do
    # shellcheck disable=SC2046,SC2086
    {
        run "claims-durable-$rate" "$number" $(stampede "$open_assets") --ack durable --rate "$rate"
        run claims-durable-max "$number" $(stampede 12000) --ack durable --rate max
        run crowd-durable-max-1024 "$number" $crowd --ack durable --rate max --window 1024
        run crowd-durable-max-batch256 "$number" $crowd --ack durable --rate max --batch 256
        run claims-sequenced-max "$number" $(stampede 16000) --ack sequenced --rate max
    }
    # One under way on each stream: the peer answers messages of a stream side by side.
    run exchanges-durable-max "$number" --scenario exchange-legs --ack durable --rate max --streams 16 --window 16
done
echo "load average after: $(cat /proc/loadavg)"
"$bin/postgres" --version
"$binaries/karat-load" table "$out"
all_closed
