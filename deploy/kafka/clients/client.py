"""A producer and consumer of a realm's topics in Python: one command and its event, one message that is no command and its
dead letter. docs/kafka.md says what is on which topic; check.sh beside this runs it.

    pip install kafka-python==3.0.12 grpcio-tools==1.85.1
    python -m grpc_tools.protoc -I proto --python_out=generated proto/karat/v1/*.proto
    PYTHONPATH=generated python client.py 127.0.0.1:19092 main OPERATOR      # the operator's account, 40 hex digits
"""

import os
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from karat.v1 import commands_pb2, events_pb2

# An engine that has just started makes its topics a moment later; a busy machine takes longer over everything.
WAIT_S = 120


def deposit(operator, account, amount):
    """The operator gives an account currency. The id is ours: sent again, the command is answered and not applied again."""
    command = commands_pb2.Command(id=os.urandom(16), actor=operator, format=1)
    command.deposit.account = account
    command.deposit.amount = amount
    return command.SerializeToString()


def messages(broker, topic):
    """Every message of a topic from its first on, as they come; ends after WAIT_S."""
    consumer = KafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False)
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    until = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < until:
            for message in consumer.poll(timeout_ms=500).get(place, []):
                yield message
    finally:
        consumer.close()
    raise SystemExit(f"{topic}: nothing came in {WAIT_S} s")


def produce(broker, topic, value, headers):
    """Returns the offset at which the broker has it."""
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    try:
        return producer.send(topic, value=value, headers=headers, partition=0).get(timeout=WAIT_S).offset
    finally:
        producer.close()


def event_of(broker, realm, account):
    """The first event that names an account as a deposit's, and its key."""
    for message in messages(broker, f"karat.{realm}.events"):
        event = events_pb2.Event.FromString(message.value)
        if event.deposited.account == account:
            return message.key.decode(), event
    raise AssertionError("unreachable")


def letter_of(broker, realm, offset):
    """The dead letter of the message that was at an offset of the topic of commands: its headers and bytes."""
    for message in messages(broker, f"karat.{realm}.dead-letters"):
        headers = {name: value.decode() for name, value in message.headers}
        if headers["karat-source"] == f"0:{offset}":
            return headers, message.value
    raise AssertionError("unreachable")


def main():
    broker, realm, operator = sys.argv[1:4]
    operator = bytes.fromhex(operator)
    account = os.urandom(20)
    command = deposit(operator, account, 17)
    if len(sys.argv) == 6:
        # For a client that sends files: the command, and the account by which its event is known.
        with open(sys.argv[4], "wb") as file:
            file.write(command)
        with open(sys.argv[5], "w", encoding="ascii") as file:
            file.write(account.hex())
        return

    produce(broker, f"karat.{realm}.commands", command, [("karat-schema", b"1")])
    key, event = event_of(broker, realm, account)
    if event.deposited.amount != 17 or not key.startswith(f"{event.sequence:020}."):
        raise SystemExit(f"not what was sent: {key} {event}")
    print(f"the deposit is event {key}")

    offset = produce(broker, f"karat.{realm}.commands", b"\xff no command", [])
    headers, value = letter_of(broker, realm, offset)
    if value != b"\xff no command" or int(headers["karat-code"]) == 0:
        raise SystemExit(f"not what was sent: {headers} {value}")
    print(f"the rest is a dead letter: code {headers['karat-code']}, {headers['karat-reason']}")


main()
