#!/usr/bin/env bash
# Runs every built-in scenario, and every way to travel, against `karat serve`, for a second each; then kills it in the
# middle of a run, starts it again, and asks it for everything that it had acknowledged.
#
#   bash loadgen/against-karat.sh BINARIES FOLDER      folder with karat and karat-load; folder for data, new or empty
#
# Passes when all books close. Speeds do not matter here.
set -euo pipefail

binaries=$1
folder=$2
mkdir -p "$folder"
serve=""
trap '[ -z "$serve" ] || kill -9 "$serve" 2>/dev/null || true' EXIT

# Starts an engine on the folder's data, on a free port, and sets $target.
start() {
    "$binaries/karat" serve --data "$folder/data" --port 0 2>"$folder/serve.log" &
    serve=$!
    for _ in $(seq 600); do
        target=$(sed -n 's/.*\(127\.0\.0\.1:[0-9]*\).*/http:\/\/\1/p' "$folder/serve.log" | sed -n 1p)
        [ -z "$target" ] || return 0
        kill -0 "$serve" 2>/dev/null || break
        sleep 0.1
    done
    cat "$folder/serve.log" >&2
    echo "karat serve did not say where it listens" >&2
    return 1
}

load() {
    local name=$1 code=0
    shift
    "$binaries/karat-load" run --target "$target" --verdict review --quiet --floor-seconds 0 \
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
for scenario in $("$binaries/karat-load" scenarios | cut -d' ' -f1); do
    load "$scenario" --scenario "$scenario" --streams 2 --rate 500
done
load "execute" --mode execute --scenario dead-letter-flood --rate 300
load "edge" --mode edge --scenario mint --ack durable --rate 200 --batch 4
load "two levels, four connections" --rate 500 --ack sequenced,durable --connections 4 --streams 2

# Killed while it is loaded, at a moment that nobody chose.
"$binaries/karat-load" run --target "$target" --verdict review --floor-seconds 0 --seconds 60 --assets 200 --rate 500 \
    --json "$folder/killed.json" >"$folder/killed.txt" 2>"$folder/killed.log" &
loading=$!
for _ in $(seq 1200); do
    ! grep -q 'accepted' "$folder/killed.log" || break
    sleep 0.1
done
kill -9 "$serve"
wait "$serve" 2>/dev/null || true
code=0
wait "$loading" || code=$?
[ "$code" = 1 ] || { cat "$folder/killed.txt" "$folder/killed.log" >&2; echo "a run against a killed engine ended with $code, not 1" >&2; exit 1; }
start
"$binaries/karat-load" check "$folder/killed.json" --target "$target"
kill -TERM "$serve"
wait "$serve"
serve=""
echo "all books close"
