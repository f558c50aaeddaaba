#!/usr/bin/env bash
# Stops the broker that start.sh started on a folder, and waits until it has ended. Ends only that process.
#
#   deploy/kafka/stop.sh [FOLDER] [--now]     --now: SIGKILL, as a lost machine would be
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../.parts/kafka-data}
if [ ! -f "$folder/pid" ]; then
    echo "stop.sh: no broker was started on $folder" >&2
    exit 0
fi
pid=$(cat "$folder/pid")
signal=TERM
[ "${2:-}" != --now ] || signal=KILL
kill -$signal "$pid" 2>/dev/null || true
# A clean stop hands over to nobody and takes a second or two; after 30 s it is ended without asking.
for _ in $(seq 300); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
kill -KILL "$pid" 2>/dev/null || true
rm -f "$folder/pid"
