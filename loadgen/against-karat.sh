#!/usr/bin/env bash
# Runs every built-in scenario, and every way to travel, against `karat serve`, for a second each; then kills it in the
# middle of a run, starts it again, and asks it for everything that it had acknowledged.
#
#   bash loadgen/against-karat.sh BINARIES FOLDER [BROKER]
#
# BINARIES is the folder with karat and karat-load, FOLDER one for data, new or empty. With BROKER (HOST:PORT; both built
# with --features kafka) the realm's log, its commands and their outcomes are on that broker; then three scenarios.
#
# Passes when all books close. Speeds do not matter here.
set -euo pipefail

. "$(dirname "$0")/../deploy/start-server.sh"
binaries=$1
folder=$2
broker=${3:-}
mkdir -p "$folder"
server_pid=""
trap '[ -z "$server_pid" ] || kill -9 "$server_pid" 2>/dev/null || true' EXIT

# A name of its own: a broker may have seen other realms.
realm=load-$(date +%s)-$$
printf '[realm]\nname = "%s"\n' "$realm" >"$folder/karat.toml"
if [ -n "$broker" ]; then
    printf '[log]\nkind = "kafka"\n[log.kafka]\nbrokers = "%s"\ncommands = true\nevents = true\n' "$broker" \
        >>"$folder/karat.toml"
fi

# Starts an engine on the folder's data, on a free port, and sets how to reach it.
start() {
    start_server "$folder/serve.log" "$binaries/karat" serve --config "$folder/karat.toml" --data "$folder/data" --port 0
    way=(--target "$server_target")
    [ -z "$broker" ] ||
        way=(--target "kafka://$broker" --engine "$server_target" --realm "$realm" --ack durable)
}

load() {
    local name=$1 code=0
    shift
    "$binaries/karat-load" run "${way[@]}" --verdict review --quiet --floor-seconds 0 \
        --seconds 1 --warm-up-seconds 0 --drain-seconds 120 --assets 200 "$@" >"$folder/$name.txt" || code=$?
    # 3: the books close, and the machine was too busy to generate the rate.
    if [ "$code" != 0 ] && [ "$code" != 3 ]; then
        cat "$folder/$name.txt" >&2
        echo "the books of $name do not close" >&2
        return 1
    fi
    printf '%-34s %s\n' "$name" "$(sed -n 's/^  events  *//p' "$folder/$name.txt")"
}

start
scenarios=$("$binaries/karat-load" scenarios | cut -d' ' -f1)
# On a broker those with something of everything: tests/kafka.rs plays each.
[ -z "$broker" ] || scenarios="mixed-day claim-stampede dead-letter-flood"
for scenario in $scenarios; do
    load "$scenario" --scenario "$scenario" --streams 2 --rate 500
done
[ -n "$broker" ] || load "execute" --mode execute --scenario dead-letter-flood --rate 300
[ -n "$broker" ] || load "edge" --mode edge --scenario mint --ack durable --rate 200 --batch 4
[ -n "$broker" ] || load "two levels, four connections" --rate 500 --ack sequenced,durable --connections 4 --streams 2
[ -z "$broker" ] || load "batches, four producers" --rate 500 --batch 8 --connections 4 --streams 2

# Killed while it is loaded, at a moment that nobody chose. A stream breaks at once and ends the run; a topic does not.
seconds=60
[ -z "$broker" ] || seconds=10
"$binaries/karat-load" run "${way[@]}" --verdict review --floor-seconds 0 --seconds "$seconds" --assets 200 --rate 500 \
    --json "$folder/killed.json" >"$folder/killed.txt" 2>"$folder/killed.log" &
loading=$!
for _ in $(seq 1200); do
    ! grep -q 'accepted' "$folder/killed.log" || break
    sleep 0.1
done
kill -9 "$server_pid"
wait "$server_pid" 2>/dev/null || true
code=0
wait "$loading" || code=$?
[ "$code" = 1 ] || { cat "$folder/killed.txt" "$folder/killed.log" >&2; echo "a run against a killed engine ended with $code, not 1" >&2; exit 1; }
start
"$binaries/karat-load" check "$folder/killed.json" --target "$server_target"
kill -TERM "$server_pid"
wait "$server_pid"
server_pid=""
echo "all books close"
