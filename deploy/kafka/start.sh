#!/usr/bin/env bash
# Starts one real Apache Kafka broker (4.1.1, KRaft, plaintext, loopback only) on a machine with Java 17 and Maven, without
# containers: for tests, for CI and to try `karat dev --log kafka://127.0.0.1:19092`. One node keeps one copy: not for
# anything that must survive a disk.
#
#   deploy/kafka/start.sh [FOLDER] [PORT]     FOLDER .parts/kafka-data, PORT 19092; the controller listens on PORT + 1
#   deploy/kafka/stop.sh [FOLDER]             stops it; the folder keeps its topics and may be started again
#
# Returns when the broker answers, and prints HOST:PORT. The jars (54 MB) are fetched once into .parts/kafka-jars.
# KARAT_KAFKA_JARS names another folder for them, KARAT_KAFKA_HEAP another heap (512m).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
parts=$here/../../.parts
mkdir -p "$parts"
parts=$(cd "$parts" && pwd)

folder=${1:-$parts/kafka-data}
port=${2:-19092}
jars=${KARAT_KAFKA_JARS:-$parts/kafka-jars}
heap=${KARAT_KAFKA_HEAP:-512m}
address=127.0.0.1:$port

fail() { echo "start.sh: $*" >&2; exit 1; }
for tool in java mvn; do
    command -v $tool >/dev/null || fail "$tool is missing; a broker needs Java 17 or newer, and Maven once for its jars"
done

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -f "$folder/pid" ] && kill -0 "$(cat "$folder/pid")" 2>/dev/null; then
    fail "a broker already runs on $folder (process $(cat "$folder/pid")); deploy/kafka/stop.sh $folder stops it"
fi
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
! answers || fail "port $port is taken"

if ! ls "$jars"/kafka_2.13-*.jar >/dev/null 2>&1; then
    echo "fetching the broker's jars into $jars" >&2
    mkdir -p "$jars"
    mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$jars" >&2 ||
        fail "Maven could not fetch the jars"
fi

properties=$folder/server.properties
cat >"$properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
listeners=PLAINTEXT://$address,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://$address,CONTROLLER://127.0.0.1:$((port + 1))
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/topics
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES

if [ ! -f "$folder/topics/meta.properties" ]; then
    id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2>/dev/null)
    java -cp "$jars/*" kafka.tools.StorageTool format --standalone -t "$id" -c "$properties" >"$folder/format.log" 2>&1 ||
        { cat "$folder/format.log" >&2; fail "the folder could not be formatted"; }
fi

# A process group of its own: Ctrl-C in the terminal that started it does not reach the broker.
setsid java "-Xms$heap" "-Xmx$heap" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 "-Dkafka.logs.dir=$folder" \
    "-Dlog4j2.configurationFile=$here/log4j2.yaml" -cp "$jars/*" kafka.Kafka "$properties" \
    >"$folder/broker.log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$folder/pid"

# 60 s: it takes 3.5 s on a quiet machine.
for _ in $(seq 600); do
    if answers; then
        echo "$address"
        exit 0
    fi
    kill -0 "$pid" 2>/dev/null || { tail -20 "$folder/broker.log" >&2; fail "the broker ended; see $folder/broker.log"; }
    sleep 0.1
done
kill "$pid" 2>/dev/null || true
fail "the broker did not answer within 60 s; see $folder/broker.log"
