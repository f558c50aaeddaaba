#!/usr/bin/env bash
# Transfers on TigerBeetle through its published client, and on Karat, alternately, so that every figure has its neighbour
# from the same minute. benches/README.md says what is fair here and what is not.
#
#   cargo build --release -p karat-engine -p karat-loadgen
#   cargo build --release -p karat-benches --features peer-tigerbeetle --bin karat-peer-tigerbeetle
#   TIGERBEETLE_ADDRESS=127.0.0.1:3001 bash benches/peers/tigerbeetle.sh FOLDER [RUNS] [SECONDS] [RATE]
#
# 3 runs of 10 seconds, 1000 transfers a second in the open loop. The server is started by whoever has one:
#   tigerbeetle format --cluster=0 --replica=0 --replica-count=1 FILE
#   tigerbeetle start --addresses=127.0.0.1:3001 FILE
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

address=${TIGERBEETLE_ADDRESS:-}
if [ -z "$address" ]; then
    echo "skipped: no TigerBeetle at TIGERBEETLE_ADDRESS, which is not set"
    exit 0
fi
first=${address%%,*}
if ! timeout 5 bash -c "exec 3<>/dev/tcp/${first%:*}/${first##*:}" 2>/dev/null; then
    echo "skipped: no TigerBeetle at $address: nothing takes a connection at $first"
    exit 0
fi
need karat karat-load karat-peer-tigerbeetle

# run NAME NUMBER BATCH ARGUMENTS: the same load on both. A message of Karat's has 1024 commands at most.
run() {
    local name=$1 number=$2 batch=$3 code=0
    shift 3
    "$binaries/karat-peer-tigerbeetle" --address "$address" --seconds "$seconds" --batch "$batch" "$@" \
        --json "$work/run.json" >"$work/run.txt" || code=$?
    keep "$out" "$name-tigerbeetle-$number" "$code"
    code=0
    start_server "$work/serve.log" "$binaries/karat" serve --data "$work/karat" --port 0
    "$binaries/karat-load" run --target "$server_target" --quiet --verdict review --scenario benches/peers/transfers.toml \
        --ack durable --seconds "$seconds" --floor-seconds 0 --drain-seconds 60 \
        --batch "$((batch < 1024 ? batch : 1024))" "$@" --json "$work/run.json" >"$work/run.txt" || code=$?
    keep "$out" "$name-karat-$number" "$code"
    stop_server
    rm -rf "$work/karat"
}

echo "load average before: $(cat /proc/loadavg)"
for number in $(seq "$runs"); do
    run "transfers-$rate" "$number" 1 --rate "$rate"
    run transfers-max "$number" 1 --rate max --window 1024
    run transfers-max-batch1024 "$number" 1024 --rate max --window 16384
    # As large as a request of TigerBeetle can be.
    run transfers-max-batch8189 "$number" 8189 --rate max --window 16384
done
echo "load average after: $(cat /proc/loadavg)"
"$binaries/karat-load" table "$out"
all_closed
