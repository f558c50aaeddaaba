#!/usr/bin/env bash
# Starts one real Apache Kafka broker (4.1.1, KRaft, loopback only) on a machine with Java 17 and Maven, without
# containers: for tests, for CI and to try `karat dev --log kafka://127.0.0.1:19092`. One node keeps one copy: not for
# anything that must survive a disk.
#
#   deploy/kafka/start.sh [--sasl] [--tls] [FOLDER] [PORT]
#                                             FOLDER .parts/kafka-data, PORT 19092; the controller listens on PORT + 1
#   deploy/kafka/stop.sh [FOLDER]             stops it; the folder keeps its topics and may be started again
#
# Returns when the broker answers, and prints HOST:PORT, where everybody may do everything in the clear. Beside it
#
#   --sasl    listens at PORT + 2 for users with a password (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)
#   --tls     listens at PORT + 3 with a certificate
#   both      listen at PORT + 4 for users with a password over TLS
#
# FOLDER/security then holds `password` of the user karat, `guest-password` of the user guest, who has no rights, `ca.pem`
# that signed the broker's certificate, and `other-ca.pem` that did not. A folder keeps its users.
#
# The jars (54 MB) are fetched once into .parts/kafka-jars. KARAT_KAFKA_JARS names another folder for them,
# KARAT_KAFKA_HEAP another heap (512m), KARAT_KAFKA_PROPERTIES a file with further properties of the broker.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
parts=$here/../../.parts
mkdir -p "$parts"
parts=$(cd "$parts" && pwd)

fail() { echo "start.sh: $*" >&2; exit 1; }

sasl=""
tls=""
while [[ ${1:-} == --* ]]; do
    case $1 in
        --sasl) sasl=yes ;;
        --tls) tls=yes ;;
        *) fail "$1 is not known; --sasl and --tls are" ;;
    esac
    shift
done
folder=${1:-$parts/kafka-data}
port=${2:-19092}
jars=${KARAT_KAFKA_JARS:-$parts/kafka-jars}
heap=${KARAT_KAFKA_HEAP:-512m}
address=127.0.0.1:$port

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
[ -z "$tls" ] || command -v openssl >/dev/null || fail "openssl is missing; --tls makes certificates with it"

if ! ls "$jars"/kafka_2.13-*.jar >/dev/null 2>&1; then
    echo "fetching the broker's jars into $jars" >&2
    mkdir -p "$jars"
    mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$jars" >&2 ||
        fail "Maven could not fetch the jars"
fi

security=$folder/security
more_listeners=""
[ -z "$sasl" ] || more_listeners+=",SASL://127.0.0.1:$((port + 2))"
[ -z "$tls" ] || more_listeners+=",TLS://127.0.0.1:$((port + 3))"
[ -z "$sasl$tls" ] || mkdir -p -m 700 "$security"
if [ -n "$sasl" ] && [ -n "$tls" ]; then
    more_listeners+=",SASLTLS://127.0.0.1:$((port + 4))"
fi

# Users are made with the folder, because the broker keeps them in its own log.
users=()
if [ -n "$sasl" ]; then
    if [ ! -f "$security/password" ]; then
        [ ! -f "$folder/topics/meta.properties" ] || fail "$folder was made without --sasl and has no users; name another"
        for file in password guest-password; do
            (umask 077 && od -An -N 16 -tx1 /dev/urandom | tr -d ' \n' >"$security/$file")
        done
    fi
    password=$(cat "$security/password")
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
        users+=(--add-scram "$mechanism=[name=karat,password=$password]")
    done
fi

# Signs $security/$1.pem, with its key in $security/$1-key.pem, by itself: who may sign others.
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
        -keyout "$security/$1-key.pem" -out "$security/$1.pem" 2>>"$security/openssl.log" ||
        { cat "$security/openssl.log" >&2; fail "openssl could not make $1.pem"; }
}
if [ -n "$tls" ] && [ ! -f "$security/broker.pem" ]; then
    authority ca
    authority other-ca
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=127.0.0.1" \
        -keyout "$security/broker-key.pem" -out "$security/broker.csr" 2>>"$security/openssl.log"
    openssl x509 -req -in "$security/broker.csr" -CA "$security/ca.pem" -CAkey "$security/ca-key.pem" -CAcreateserial \
        -days 3650 -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:localhost") -out "$security/broker-cert.pem" \
        2>>"$security/openssl.log" || { cat "$security/openssl.log" >&2; fail "openssl could not sign the certificate"; }
    cat "$security/broker-key.pem" "$security/broker-cert.pem" "$security/ca.pem" >"$security/broker.pem"
    chmod 600 "$security"/*.pem
fi

properties=$folder/server.properties
(umask 077 && : >"$properties")
cat >"$properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
listeners=PLAINTEXT://$address,CONTROLLER://127.0.0.1:$((port + 1))$more_listeners
advertised.listeners=PLAINTEXT://$address,CONTROLLER://127.0.0.1:$((port + 1))$more_listeners
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,SASLTLS:SASL_SSL
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
if [ -n "$tls" ]; then
    printf 'ssl.keystore.type=PEM\nssl.keystore.location=%s\n' "$security/broker.pem" >>"$properties"
fi
if [ -n "$sasl" ]; then
    plain="org.apache.kafka.common.security.plain.PlainLoginModule required"
    plain+=" user_karat=\"$password\" user_guest=\"$(cat "$security/guest-password")\";"
    scram="org.apache.kafka.common.security.scram.ScramLoginModule required;"
    for listener in sasl sasltls; do
        cat >>"$properties" <<PROPERTIES
listener.name.$listener.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.$listener.plain.sasl.jaas.config=$plain
listener.name.$listener.scram-sha-256.sasl.jaas.config=$scram
listener.name.$listener.scram-sha-512.sasl.jaas.config=$scram
PROPERTIES
    done
    # Who comes in the clear, or by TLS alone, is called ANONYMOUS.
    cat >>"$properties" <<PROPERTIES
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:karat
PROPERTIES
fi
[ -z "${KARAT_KAFKA_PROPERTIES:-}" ] || cat "$KARAT_KAFKA_PROPERTIES" >>"$properties"

if [ ! -f "$folder/topics/meta.properties" ]; then
    id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2>/dev/null)
    java -cp "$jars/*" kafka.tools.StorageTool format --standalone -t "$id" -c "$properties" "${users[@]}" >"$folder/format.log" 2>&1 ||
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
