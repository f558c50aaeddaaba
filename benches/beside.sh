#!/usr/bin/env bash
# What must not be felt: agents, watchers that do not read, a slow store, a chain that stands still, batches and snapshots,
# each beside a baseline of the same turn, on a fresh engine each. For an idle machine.
#
#   cargo build --release -p karat-engine -p karat-loadgen
#   bash benches/beside.sh [FOLDER] [TURNS] [SECONDS] [RATE] [CASES]    results/<date>-<processors>-beside, 3, 10, 5000, all
#
# CASES is an extended regular expression of the cases' names, as in '^(large-baseline|snapshots)$'.
# `karat-load table FOLDER --against baseline` prints the table again, and FOLDER/large that of snapshots of a large realm.
# benches/README.md says how each case is made. Ends with an error when the books of a run do not close.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/runs.sh

out=${1:-benches/results/$(date -u +%F)-$(nproc)-beside}
turns=${2:-3}
seconds=${3:-10}
rate=${4:-5000}
wanted=${5:-.}
large_assets=${KARAT_LARGE_ASSETS:-400000}
hold=$work/hold.so
switch=$work/held
load_pid=""
at_end() {
    rm -f "$switch"
    [ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null || true
}
mkdir -p "$out/large"
cc -O2 -shared -fPIC -o "$hold" benches/beside/hold.c -ldl

# Every worker of the agents stands still until the switch goes. Only Python and C can signal a single thread.
hold_agents() {
    python3 - "$server_pid" <<'PYTHON'
import ctypes, pathlib, signal, sys
process = int(sys.argv[1])
held = 0
for task in pathlib.Path(f"/proc/{process}/task").iterdir():
    if (task / "comm").read_text().startswith("karat-agent-"):
        if ctypes.CDLL(None).tgkill(process, int(task.name), signal.SIGUSR2) != 0:
            raise SystemExit(f"thread {task.name} cannot be signalled")
        held += 1
if held == 0:
    raise SystemExit("the engine has no worker of its agents")
PYTHON
}

# run FOLDER NAME TURN CASE CONFIG ARGUMENTS: CASE is what is held while the run is measured: nothing, agents, store, chain.
# CONFIG is TOML, which the engine has instead of its defaults.
run() {
    local folder=$1 name=$2 turn=$3 case=$4 config=$5 held="" code=0
    shift 5
    case $case in
    # A disk that takes a tenth of a second for every write.
    store) held="KARAT_HOLD_FOLDER=$work/data/store KARAT_HOLD_WRITE_MS=100" ;;
    chain) held="KARAT_HOLD_FOLDER=$work/data/chain KARAT_HOLD_WRITE_MS=0" ;;
    esac
    # What the run before left to be written is not this one's.
    sync
    # A worker that is held must not be replaced.
    printf '%s\n[agents]\nstall_ms = 3600000\n' "$config" >"$work/karat.toml"
    # The same library in every run, so that it is in no ratio.
    # shellcheck disable=SC2086
    start_server "$work/serve.log" env LD_PRELOAD="$hold" KARAT_HOLD_SWITCH="$switch" $held \
        "$binaries/karat" serve --config "$work/karat.toml" --data "$work/data" --port 0
    "$binaries/karat-load" run --target "$server_target" --rate "$rate" --seconds "$seconds" --warm-up-seconds 3 \
        --floor-seconds 0 --json "$work/run.json" "$@" >"$work/run.txt" 2>"$work/run.log" &
    load_pid=$!
    if [ "$case" != nothing ]; then
        # After setup, and before anything is measured.
        until grep -q ' 1/' "$work/run.log" || ! kill -0 "$load_pid" 2>/dev/null; do sleep 0.05; done
        touch "$switch"
        [ "$case" != agents ] || hold_agents
    fi
    wait "$load_pid" || code=$?
    load_pid=""
    rm -f "$switch"
    keep "$folder" "$name-$turn" "$code"
    stop_server
    rm -rf "$work/data"
}

no_batches=$'[policy]\nbatch_changes_max = 65536\nbatch_age_ms_max = 3600000'
many_batches=$'[policy]\nbatch_changes_max = 256\nbatch_age_ms_max = 100'
a_snapshot_a_second=$'[snapshot]\nevery_commands = 1000'
no_snapshots=$'[snapshot]\nevery_commands = 1000000000'
# One run of a case; a tenth of the commands mint, so that agents, store and chain have work all the time. What a snapshot costs
# grows with the realm, so that pair has a large one.
mixed=(--scenario mixed --assets 2000 --verdict accept)
large=(--scenario trade --assets "$large_assets" --verdict review)
one_case() {
    case $1 in
    baseline) run "$out" "$1" "$2" nothing "" "${mixed[@]}" ;;
    agents-off) run "$out" "$1" "$2" agents "" "${mixed[@]}" ;;
    slow-watchers) run "$out" "$1" "$2" nothing "" "${mixed[@]}" --slow-watchers 8 ;;
    slow-store) run "$out" "$1" "$2" store "" "${mixed[@]}" ;;
    stalled-chain) run "$out" "$1" "$2" chain "" "${mixed[@]}" ;;
    batches-none) run "$out" "$1" "$2" nothing "$no_batches" "${mixed[@]}" ;;
    batches-often) run "$out" "$1" "$2" nothing "$many_batches" "${mixed[@]}" ;;
    large-baseline) run "$out/large" baseline "$2" nothing "$no_snapshots" "${large[@]}" ;;
    snapshots) run "$out/large" "$1" "$2" nothing "$a_snapshot_a_second" "${large[@]}" ;;
    esac
}
# Every turn begins with another case: what comes after the large realm's folder is deleted must not always be the baseline.
mapfile -t cases < <(printf '%s\n' baseline agents-off slow-watchers slow-store stalled-chain batches-none batches-often \
    large-baseline snapshots | grep -E -- "$wanted")
for turn in $(seq "$turns"); do
    for place in "${!cases[@]}"; do
        one_case "${cases[(place + turn - 1) % ${#cases[@]}]}" "$turn"
    done
done

machine_facts | tee "$out/machine.txt"
for folder in "$out" "$out/large"; do
    ! compgen -G "$folder/*-1.json" >/dev/null || "$binaries/karat-load" table "$folder" --against baseline
done
all_closed
