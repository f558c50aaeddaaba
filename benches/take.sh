#!/usr/bin/env bash
# Takes the runs that the README quotes into a folder, each against a fresh engine, and prints their table.
# For an idle machine: client and engine share its processors.
#
#   cargo build --release -p karat-engine -p karat-loadgen
#   bash benches/take.sh [FOLDER] [RUNS] [SECONDS]     benches/results/<date>-<processors>, 3 runs, 10 seconds
#   KARAT_BENCHES=1 bash benches/take.sh               the benches of this folder too (some 10 minutes)
#   KARAT_PEERS=1 bash benches/take.sh                 and the peers (peers/postgres.sh says what to build)
#
# `karat-load table FOLDER` prints the table again. Ends with an error when the books of a run do not close.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/runs.sh

out=${1:-benches/results/$(date -u +%F)-$(nproc)}
runs=${2:-3}
seconds=${3:-10}
mkdir -p "$out"

# run NAME NUMBER ARGUMENTS
run() {
    local name=$1 number=$2 code=0
    shift 2
    start_server "$work/serve.log" "$binaries/karat" serve --data "$work/data" --port 0
    "$binaries/karat-load" run --target "$server_target" --quiet --verdict review --seconds "$seconds" \
        --json "$work/run.json" "$@" >"$work/run.txt" || code=$?
    keep "$out" "$name-$number" "$code"
    stop_server
    rm -rf "$work/data"
}

for number in $(seq "$runs"); do
    run sequenced-5000 "$number" --rate 5000 --assets 1000
    run sequenced-10000 "$number" --rate 10000 --assets 1000
    run durable-10000 "$number" --rate 10000 --assets 1000 --ack durable
    run sequenced-batched "$number" --rate max --batch 256
    run durable-batched "$number" --rate max --batch 256 --ack durable
    run claim-stampede "$number" --scenario claim-stampede --rate 5000
    run mixed-day "$number" --scenario mixed-day --arrivals poisson --rate 5000
done

machine_facts >"$work/machine.txt"

if [ -n "${KARAT_BENCHES:-}" ]; then
    # Beside the runs' data, so that the flush is of the same disk.
    mkdir "$work/disk"
    KARAT_BENCH_DIR=$work/disk cargo bench --locked -p karat-benches --benches
    python3 - "${CARGO_TARGET_DIR:-target}/criterion" "$work/machine.txt" "$out/criterion.json" <<'PYTHON'
import json, pathlib, sys
measured, machine, out = sys.argv[1:]
nanoseconds = {}
for path in sorted(pathlib.Path(measured).glob("**/new/estimates.json")):
    name = "/".join(path.relative_to(measured).parts[:-2])
    nanoseconds[name] = json.loads(path.read_text())["mean"]["point_estimate"]
facts = dict(line.rstrip("\n").split(": ", 1) for line in open(machine))
with open(out, "w") as file:
    json.dump({"machine": facts, "nanoseconds": nanoseconds}, file, indent=1)
    file.write("\n")
PYTHON
fi
cp "$work/machine.txt" "$out/machine.txt"
if [ -n "${KARAT_PEERS:-}" ]; then
    bash benches/peers/postgres.sh "$out" "$runs" "$seconds" >"$work/peers.txt" ||
        { cat "$work/peers.txt"; failed="$failed peers"; }
    ! grep '^skipped: ' "$work/peers.txt" || true
fi
cat "$out/machine.txt"
"$binaries/karat-load" table "$out"
all_closed
