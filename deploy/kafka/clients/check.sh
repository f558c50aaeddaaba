#!/usr/bin/env bash
# Commands, events and dead letters by clients that are not ours: kafka-python, which shares no code with librdkafka, and
# kcat where it is installed.
#
#   deploy/kafka/clients/check.sh KARAT BROKER FOLDER
#
# KARAT is the binary (built with --features kafka), BROKER HOST:PORT, FOLDER one for data, new or empty. Says "skipped:"
# where a client cannot be had.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
. "$root/deploy/start-server.sh"
karat=$1
broker=$2
folder=$3
mkdir -p "$folder/generated"

python3 -m venv "$folder/venv"
if ! "$folder/venv/bin/pip" install -q --retries 1 kafka-python==3.0.12 grpcio-tools==1.85.1; then
    echo "skipped: kafka-python and grpcio-tools cannot be installed from PyPI"
    exit 0
fi
"$folder/venv/bin/python" -m grpc_tools.protoc -I "$root/proto" --python_out="$folder/generated" "$root"/proto/karat/v1/*.proto
client() { PYTHONPATH=$folder/generated "$folder/venv/bin/python" "$here/client.py" "$broker" "$realm" "$operator" "$@"; }

# A name of its own: a broker may have seen other realms.
realm=clients-$(date +%s)-$$
operator=00000000000000000000000000000000000000aa
cat >"$folder/karat.toml" <<TOML
[realm]
name = "$realm"
operator = "0x$operator"
[log]
kind = "kafka"
[log.kafka]
brokers = "$broker"
commands = true
events = true
TOML
trap '[ -z "${server_pid:-}" ] || kill -9 "$server_pid" 2>/dev/null || true' EXIT
start_server "$folder/serve.log" "$karat" serve --config "$folder/karat.toml" --data "$folder/data" --port 0

echo "kafka-python:"
client

if command -v kcat >/dev/null; then
    echo "kcat:"
    client "$folder/command" "$folder/account"
    printf '\377 no command' >"$folder/garbage"
    # One file is one message. No header: format 1.
    kcat -P -b "$broker" -t "karat.$realm.commands" -p 0 "$folder/command"
    kcat -P -b "$broker" -t "karat.$realm.commands" -p 0 "$folder/garbage"
    # Shows lines with $2 of what $1 prints; two minutes at most.
    shown() {
        for _ in $(seq 240); do
            ! "$1" | grep -a -o -- "$2" || return 0
            sleep 0.5
        done
        echo "this never came: $2" >&2
        return 1
    }
    consume() { kcat -C -b "$broker" -t "karat.$realm.$1" -p 0 -o beginning -e -q -f "$2"; }
    letters() { consume dead-letters '%k %h\n'; }
    # In hex, because an event is bytes.
    events() { consume events '%s' | od -An -v -tx1 | tr -d ' \n'; }
    # Behind the two messages of kafka-python.
    shown letters '^0:[3-9] .*'
    echo "the event of account $(shown events "$(cat "$folder/account")")"
else
    echo "skipped: kcat is not installed (Debian: kcat)"
fi
kill -TERM "$server_pid"
wait "$server_pid"
server_pid=""
echo "clients of other languages are served"
