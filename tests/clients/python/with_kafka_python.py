"""kafka-python against a broker: what its users do every day."""

import os
import threading
import time

from common import (COMPRESSIONS, REPLICAS, check, check_equal, eventually, main, sample_records, step, undisturbed,
                    unique)
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic


def read_all(bootstrap, topic, count, **options):
    """The first `count` records of partition 0, in order."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **options)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    records = []
    deadline = time.monotonic() + 30
    while len(records) < count and time.monotonic() < deadline:
        for batch in consumer.poll(timeout_ms=500).values():
            records.extend(batch)
    consumer.close()
    return records


def roundtrip(bootstrap):
    for compression in COMPRESSIONS:
        topic = unique("kp-round")
        sent = sample_records(compression, null_headers=False)
        chosen = None if compression == "none" else compression
        producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=chosen, acks="all", linger_ms=5)
        futures = [producer.send(topic, key=k, value=v, headers=h, partition=0) for k, v, h in sent]
        producer.flush()
        offsets = [future.get(timeout=60).offset for future in futures]
        check_equal(offsets, list(range(len(sent))), f"offsets with {compression}")
        got = [(r.key, r.value, list(r.headers)) for r in read_all(bootstrap, topic, len(sent))]
        check_equal(got, sent, f"records with {compression}")
        producer.close()
        step(f"round trip with {compression}")
    idempotent(bootstrap)
    acks(bootstrap)


def idempotent(bootstrap):
    topic = unique("kp-idem")
    producer = KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=1)
    futures = [producer.send(topic, value=b"%d" % n, partition=0) for n in range(2000)]
    producer.flush()
    check_equal([f.get().offset for f in futures], list(range(2000)), "offsets of the idempotent producer")
    check_equal([r.value for r in read_all(bootstrap, topic, 2000)], [b"%d" % n for n in range(2000)], "its records")
    producer.close()
    step("idempotent producer")


def acks(bootstrap):
    for acks_wanted in (0, 1, "all"):
        undisturbed(lambda: plainly(bootstrap, acks_wanted))
    step("acks 0, 1 and all")


def plainly(bootstrap, acks_wanted):
    topic = unique("kp-acks")
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks=acks_wanted)
    producer.send(topic, b"first").get(timeout=60)
    for n in range(50):
        producer.send(topic, b"%d" % n)
    producer.flush()
    check_equal(len(read_all(bootstrap, topic, 51)), 51, f"records with acks={acks_wanted}")
    producer.close()


class Member(threading.Thread):
    """A group member that polls until told to stop and keeps what it saw."""

    def __init__(self, bootstrap, topic, group, **options):
        super().__init__(daemon=True)
        self.consumer = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500, **options)
        self.stopping = threading.Event()
        self.records = []
        self.partitions = set()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            for batch in self.consumer.poll(timeout_ms=200).values():
                self.records.extend(batch)
            self.partitions = set(self.consumer.assignment())
        self.commit()
        self.consumer.close()

    def commit(self):
        """A coordinator that moves in the midst of it leaves the commit to be repeated by the application."""
        def committed():
            try:
                self.consumer.commit()
            except errors.KafkaError as error:
                print(f"commits again: {error!r}", flush=True)
                return False
            return True

        eventually(committed, "a commit", 20)

    def stop(self):
        self.stopping.set()
        self.join(30)
        check(not self.is_alive(), "the member leaves when told to")


def groups(bootstrap):
    topic, group = unique("kp-group"), unique("kp-group")
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, 4, REPLICAS)])
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for n in range(400):
        producer.send(topic, b"%d" % n, partition=n % 4)
    producer.flush()

    first = Member(bootstrap, topic, group)
    eventually(lambda: len(first.partitions) == 4 and len(first.records) == 400, "one member reads all four partitions")
    step("join, assignment, reading")
    second = Member(bootstrap, topic, group)
    eventually(lambda: len(first.partitions) == 2 and len(second.partitions) == 2, "a second member takes half")
    check(not first.partitions & second.partitions, "no partition belongs to two members")
    step("rebalance when a second member comes")
    second.stop()
    eventually(lambda: len(first.partitions) == 4, "the partitions come back when a member leaves")
    first.stop()

    offsets = admin.list_group_offsets(group) if hasattr(admin, "list_group_offsets") \
        else admin.list_consumer_group_offsets(group)
    offsets = offsets.get(group, offsets)
    committed = {p.partition: o.offset for p, o in offsets.items()}
    check_equal(committed, {0: 100, 1: 100, 2: 100, 3: 100}, "committed offsets")
    producer.send(topic, b"after", partition=2).get(timeout=60)
    again = Member(bootstrap, topic, group)
    eventually(lambda: again.records, "the group resumes")
    check_equal([(r.partition, r.offset, r.value) for r in again.records], [(2, 100, b"after")], "resumed where it was")
    again.stop()
    step("commit and resume")
    static_member(bootstrap, topic)
    producer.close()
    admin.close()


def static_member(bootstrap, topic):
    group = unique("kp-static")
    first = Member(bootstrap, topic, group, group_instance_id="one")
    eventually(lambda: len(first.partitions) == 4, "a static member joins")
    generation = first.consumer._coordinator._generation.generation_id
    first.stop()
    again = Member(bootstrap, topic, group, group_instance_id="one")
    eventually(lambda: len(again.partitions) == 4, "the static member comes back")
    check_equal(again.consumer._coordinator._generation.generation_id, generation, "generation after its return")
    again.stop()
    step("static membership")


def admin(bootstrap):
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    topic = unique("kp-admin")
    client.create_topics([NewTopic(topic, 3, REPLICAS, topic_configs={"retention.ms": "3600000"})])
    listed(client, [topic])
    described = client.describe_topics([topic])[0]
    check_equal(len(described["partitions"]), 3, "its partitions")
    step("create, list, describe")
    check_raises(errors.TopicAlreadyExistsError, lambda: client.create_topics([NewTopic(topic, 1, REPLICAS)]))
    check_raises(errors.InvalidConfigurationError, lambda: client.create_topics(
        [NewTopic(unique("kp-bad"), 1, REPLICAS, topic_configs={"no.such.config": "1"})]))
    check_raises(errors.InvalidTopicError, lambda: client.create_topics([NewTopic("..", 1, REPLICAS)]))
    check_raises(errors.InvalidReplicationFactorError, lambda: client.create_topics([NewTopic(unique("kp-bad"), 1, 9)]))
    check_raises(errors.InvalidPartitionsError, lambda: client.create_topics([NewTopic(unique("kp-bad"), 0, REPLICAS)]))
    step("refusals")
    client.create_partitions({topic: NewPartitions(5)})
    eventually(lambda: len(client.describe_topics([topic])[0]["partitions"]) == 5, "five partitions")
    step("create partitions")
    check_equal(topic_config(client, topic, "retention.ms"), "3600000", "the config given at creation")
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": "2000"})])
    eventually(lambda: topic_config(client, topic, "max.message.bytes") == "2000", "the altered config")
    too_large(bootstrap, topic)
    step("configs")
    delete_records(bootstrap, client)
    client.delete_topics([topic])
    eventually(lambda: topic not in client.list_topics(), "the topic is gone")
    check_raises(errors.UnknownTopicOrPartitionError, lambda: client.delete_topics([topic]))
    step("delete")
    client.close()


def delete_records(bootstrap, client):
    topic = unique("kp-trim")
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for n in range(10):
        producer.send(topic, b"%d" % n, partition=0)
    producer.flush()
    producer.close()
    client.delete_records({TopicPartition(topic, 0): 4})
    check_equal([r.value for r in read_all(bootstrap, topic, 6)], [b"%d" % n for n in range(4, 10)], "what is left")
    step("delete records")


def topic_config(client, topic, name):
    response = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return find_config(response, name)


def find_config(response, name):
    """The value of a config in an answer of describe_configs, whatever this version of the library makes of it."""
    if isinstance(response, dict):
        if name in response:
            entry = response[name]
            return entry["value"] if isinstance(entry, dict) else entry
        response = list(response.values())
    for part in response:
        if isinstance(part, (dict, list)):
            found = find_config(part, name)
            if found is not None:
                return found
    return None


def too_large(bootstrap, topic):
    producer = KafkaProducer(bootstrap_servers=bootstrap, retries=0)
    check_raises(errors.MessageSizeTooLargeError, lambda: producer.send(topic, b"x" * 5000).get(timeout=60))
    producer.close()


def check_raises(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} expected")


def offsets(bootstrap):
    topic = unique("kp-offsets")
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for n in range(10):
        producer.send(topic, b"%d" % n, partition=0, timestamp_ms=1_000_000 + n * 1000)
    producer.flush()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    partition = TopicPartition(topic, 0)
    check_equal(consumer.beginning_offsets([partition]), {partition: 0}, "earliest")
    check_equal(consumer.end_offsets([partition]), {partition: 10}, "latest")
    found = consumer.offsets_for_times({partition: 1_004_500})[partition]
    check_equal((found.offset, found.timestamp), (5, 1_005_000), "by time")
    check_equal(consumer.offsets_for_times({partition: 9_000_000})[partition], None, "past the end")
    check_equal(consumer.partitions_for_topic(topic), {0}, "partitions")
    consumer.close()
    producer.close()
    step("offsets earliest, latest, by time")


def field_report_001(bootstrap, topic):
    """A client that knows one node reaches the leader of each partition."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    partitions = producer.partitions_for(topic)
    for partition in partitions:
        producer.send(topic, b"through one node", partition=partition).get(timeout=60)
    producer.close()
    check_equal(partitions, {0, 1, 2}, "partitions")
    step("a record in each partition")


def field_report_002(bootstrap, topic, first, total):
    """Produces records `first` to `total` with acks=all and reads all of them from the start."""
    first, total = int(first), int(total)
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for n in range(first, total):
        producer.send(topic, b"record %d" % n, partition=0).get(timeout=60)
    producer.close()
    read = [record.value for record in read_all(bootstrap, topic, total)]
    check_equal(read, [b"record %d" % n for n in range(total)], "records")
    step(f"records {first} to {total} sent, all {total} read")


def field_report_004(bootstrap, expected_brokers="1"):
    """Standard clients saw no brokers, and creating topics failed or timed out."""
    client = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=120000)
    brokers = client.describe_cluster()["brokers"]
    check_equal(len(brokers), int(expected_brokers), "brokers that kafka-python sees")
    step(f"sees {len(brokers)} broker(s)")
    created = [unique("report-004-ten") for _ in range(10)]
    client.create_topics([NewTopic(name, 1, REPLICAS) for name in created[:5]])
    for name in created[5:]:
        client.create_topics([NewTopic(name, 1, REPLICAS)])
    listed(client, created)
    step("ten topics")
    if os.environ.get("CHRONIK_STRESS", "1") == "1":
        stress(bootstrap, threads=100, topics=3000 // REPLICAS)
        stress(bootstrap, threads=10, topics=200)
        batch = [unique("report-004-batch") for _ in range(1000)]
        client.create_topics([NewTopic(name, 1, REPLICAS) for name in batch], timeout_ms=60000)
        listed(client, batch)
        step("1,000 topics in one request")
    client.close()


def listed(client, names):
    """Whichever node is asked lists them within a moment."""
    eventually(lambda: set(names) <= set(client.list_topics()), "all topics are listed")


def stress(bootstrap, threads, topics):
    """`topics` topics, one request each, from `threads` threads that each have a client of their own."""
    names = [unique("report-004-stress") for _ in range(topics)]
    failures = []
    started = time.monotonic()

    def work(mine):
        try:
            client = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=120000)
            for name in mine:
                client.create_topics([NewTopic(name, 1, REPLICAS)], timeout_ms=60000)
            client.close()
        except Exception as error:  # every failure counts, whatever it is
            failures.append(repr(error))

    workers = [threading.Thread(target=work, args=(names[n::threads],)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    check_equal(failures, [], f"{topics} topics from {threads} threads")
    elapsed = time.monotonic() - started
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    listed(client, names)
    client.close()
    step(f"{topics} topics from {threads} threads in {elapsed:.1f} s")


main({
    "roundtrip": roundtrip,
    "groups": groups,
    "admin": admin,
    "offsets": offsets,
    "field_report_001": field_report_001,
    "field_report_002": field_report_002,
    "field_report_004": field_report_004,
})
