"""confluent-kafka (librdkafka) against a broker."""

import select
import sys
import threading

from common import (COMPRESSIONS, IDEMPOTENT, REPLICAS, check, check_equal, eventually, main, sample_records, step,
                    undisturbed, unique)
from confluent_kafka import (Consumer, ConsumerGroupTopicPartitions, ElectionType, KafkaError, KafkaException, Producer,
                             TopicCollection, TopicPartition)
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)


def send_all(bootstrap, topic, records, **options):
    """Produces to partition 0 and gives back the offsets in the order of the records."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": IDEMPOTENT, **options})
    offsets, failures = [None] * len(records), []

    def reported(index):
        def report(error, message):
            if error:
                failures.append(str(error))
            else:
                offsets[index] = message.offset()
        return report

    for index, (key, value, headers) in enumerate(records):
        producer.produce(topic, key=key, value=value, headers=headers, partition=0, on_delivery=reported(index))
        if index % 1000 == 0:
            producer.poll(0)
    check_equal(producer.flush(30), 0, "records left in the producer")
    check_equal(failures, [], "failed records")
    return offsets


def read_all(bootstrap, topic, count, partition=0, seconds=40):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": unique("unused"), "auto.offset.reset": "earliest",
                         "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0)])
    records = []

    def poll():
        for message in consumer.consume(10000, 0.5):
            check(message.error() is None, f"a record, not {message.error()}")
            records.append(message)
        return len(records) >= count

    eventually(poll, f"{count} records of {topic}", seconds)
    consumer.close()
    return records


def roundtrip(bootstrap):
    for compression in COMPRESSIONS:
        topic, sent = unique("ck-round"), sample_records(compression)
        offsets = send_all(bootstrap, topic, sent, **{"compression.type": compression, "linger.ms": 5})
        check_equal(offsets, list(range(len(sent))), f"offsets with {compression}")
        got = [(m.key(), m.value(), m.headers() or []) for m in read_all(bootstrap, topic, len(sent))]
        check_equal(got, sent, f"records with {compression}")
        step(f"round trip with {compression}")
    topic = unique("ck-idem")
    many = [(None, b"%d" % n, []) for n in range(20000)]
    offsets = send_all(bootstrap, topic, many, **{"enable.idempotence": True, "linger.ms": 0})
    check_equal(offsets, list(range(20000)), "offsets of the idempotent producer")
    check_equal([m.value() for m in read_all(bootstrap, topic, 20000)], [v for _, v, _ in many], "its records")
    step("idempotent producer")
    for acks in ("0", "1", "all"):
        undisturbed(lambda: plainly(bootstrap, many[:500], acks))
    step("acks 0, 1 and all")


def plainly(bootstrap, records, acks):
    topic = unique("ck-acks")
    send_all(bootstrap, topic, records, **{"acks": acks, "enable.idempotence": False})
    check_equal([m.value() for m in read_all(bootstrap, topic, len(records))], [v for _, v, _ in records], f"acks={acks}")


class Member(threading.Thread):
    """A group member that polls until told to stop, and commits when nothing comes."""

    def __init__(self, bootstrap, topic, group, **options):
        super().__init__(daemon=True)
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                                  "enable.auto.commit": False, "session.timeout.ms": 6000,
                                  "heartbeat.interval.ms": 500, **options})
        self.consumer.subscribe([topic])
        # A member that lost its session reads again what it had not committed: records are told apart by their offsets.
        self.stopping, self.read, self.partitions, self.committed = threading.Event(), set(), set(), 0
        self.start()

    def run(self):
        uncommitted = False
        while not self.stopping.is_set():
            message = self.consumer.poll(0.1)
            if message and not message.error():
                self.read.add((message.partition(), message.offset()))
                uncommitted = True
            elif uncommitted:
                uncommitted = not self.commit()
            self.partitions = {p.partition for p in self.consumer.assignment()}
        self.consumer.close()

    def commit(self):
        """librdkafka waits for a new coordinator once; a commit that finds it gone again is the application's to repeat."""
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException as error:
            print(f"commits again: {error}", flush=True)
            return False
        self.committed = len(self.read)
        return True

    def stop(self):
        self.stopping.set()
        self.join(30)
        check(not self.is_alive(), "the member leaves when told to")


def groups(bootstrap):
    for strategy in ("range", "cooperative-sticky"):
        topic, group = unique("ck-group"), unique("ck-group")
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(topic, 4, REPLICAS)])[topic].result(20)
        send_group_records(bootstrap, topic)
        options = {"partition.assignment.strategy": strategy}
        first = Member(bootstrap, topic, group, **options)
        eventually(lambda: len(first.partitions) == 4 and first.committed == 400, "one member reads all")
        second = Member(bootstrap, topic, group, **options)
        eventually(lambda: len(first.partitions) == 2 and len(second.partitions) == 2, "a second member takes half")
        second.stop()
        eventually(lambda: len(first.partitions) == 4, "the partitions come back")
        first.stop()
        wanted = [ConsumerGroupTopicPartitions(group)]
        found = patiently(lambda: admin.list_consumer_group_offsets(wanted)[group].result(20)).topic_partitions
        check_equal({p.partition: p.offset for p in found}, {n: 100 for n in range(4)}, "committed offsets")
        static_member(bootstrap, topic, group, admin, options)
        step(f"groups with {strategy}")


def patiently(call):
    """Calls until no retriable error comes: librdkafka's AdminClient hands out those of a coordinator that has just moved."""
    def attempt():
        try:
            return [call()]
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE,
                                            KafkaError.COORDINATOR_LOAD_IN_PROGRESS):
                raise
            return None
    return eventually(attempt, "an answer that is not retriable")[0]


def static_member(bootstrap, topic, group, admin, options):
    member = Member(bootstrap, topic, group, **{"group.instance.id": "one", **options})
    eventually(lambda: len(member.partitions) == 4, "a static member joins")
    described = patiently(lambda: admin.describe_consumer_groups([group])[group].result(20))
    check_equal([m.group_instance_id for m in described.members], ["one"], "the described member")
    member.stop()
    described = patiently(lambda: admin.describe_consumer_groups([group])[group].result(20))
    check_equal([m.group_instance_id for m in described.members], ["one"], "a static member stays when it closes")


def former_coordinator(bootstrap, topic):
    """Consumers without heartbeats, whose coordinators move: they hear of it from the former one, which they ask for offsets."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for partition in (0, 1):
        producer.produce(topic, b"record", partition=partition)
    check_equal(producer.flush(30), 0, "records left in the producer")
    client = AdminClient({"bootstrap.servers": bootstrap})

    def coordinator(name):
        return patiently(lambda: client.describe_consumer_groups([name])[name].result(20)).coordinator.id

    def coordinators():
        return [coordinator(name) for name in names]

    names = [unique("ck-former") for _ in range(12)]
    consumers = [Consumer({"bootstrap.servers": bootstrap, "group.id": name, "auto.offset.reset": "earliest",
                           "enable.auto.commit": False}) for name in names]
    for consumer in consumers:
        consumer.assign([TopicPartition(topic, 0)])
        reads_one(consumer, 0)
    before = coordinators()
    client.elect_leaders(ElectionType.PREFERRED, None).result(30)
    eventually(lambda: coordinators() != before, "a coordinator moves")
    for consumer in consumers:
        consumer.incremental_assign([TopicPartition(topic, 1)])
        reads_one(consumer, 1)
        consumer.close()
    after = coordinators()
    step(f"offsets asked of a former coordinator: {sum(a != b for a, b in zip(before, after))} of {len(names)} moved")


def reads_one(consumer, partition):
    def read():
        message = consumer.poll(0.5)
        return message is not None and not message.error() and message.partition() == partition

    eventually(read, f"a record of partition {partition}", 30)


def send_group_records(bootstrap, topic):
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": IDEMPOTENT})
    for n in range(400):
        producer.produce(topic, b"%d" % n, partition=n % 4)
    check_equal(producer.flush(30), 0, "records left in the producer")


def admin(bootstrap):
    # librdkafka refreshes what it has seen, and would have a deleted topic made anew by asking for it.
    client = AdminClient({"bootstrap.servers": bootstrap, "allow.auto.create.topics": False})
    topic = unique("ck-admin")
    client.create_topics([NewTopic(topic, 3, REPLICAS, config={"retention.ms": "3600000"})])[topic].result(20)
    eventually(lambda: topic in client.list_topics(timeout=10).topics, "the topic is listed")
    check_equal(len(client.list_topics(topic, timeout=10).topics[topic].partitions), 3, "its partitions")
    refused(KafkaError.TOPIC_ALREADY_EXISTS, lambda: client.create_topics([NewTopic(topic, 1, REPLICAS)])[topic].result(20))
    refused(KafkaError.INVALID_CONFIG, lambda: client.create_topics(
        [NewTopic("ck-bad", 1, REPLICAS, config={"no.such.config": "1"})])["ck-bad"].result(20))
    refused(KafkaError.INVALID_CONFIG, lambda: client.create_topics(
        [NewTopic("ck-bad", 1, REPLICAS, config={"retention.ms": "soon"})])["ck-bad"].result(20))
    refused(KafkaError.TOPIC_EXCEPTION, lambda: client.create_topics([NewTopic("..", 1, REPLICAS)])[".."].result(20))
    step("create, list, refusals")
    client.create_partitions([NewPartitions(topic, 5)])[topic].result(20)
    eventually(lambda: len(client.list_topics(topic, timeout=10).topics[topic].partitions) == 5, "five partitions")
    configs(client, topic)
    offsets_and_trim(bootstrap, client)
    described = client.describe_cluster().result(20)
    check(described.cluster_id and described.nodes and described.controller, "the cluster is described")
    described = client.describe_topics(TopicCollection([topic]))[topic].result(20)
    check_equal(len(described.partitions), 5, "described partitions")
    groups_listed(bootstrap, client)
    client.delete_topics([topic])[topic].result(20)
    eventually(lambda: topic not in client.list_topics(timeout=10).topics, "the topic is gone")
    refused(KafkaError.UNKNOWN_TOPIC_OR_PART, lambda: client.delete_topics([topic])[topic].result(20))
    step("delete")


def configs(client, topic):
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("retention.ms", "", incremental_operation=AlterConfigOpType.DELETE)])
    client.incremental_alter_configs([resource])[resource].result(20)

    def values():
        wanted = ConfigResource(ResourceType.TOPIC, topic)
        return {name: entry.value for name, entry in client.describe_configs([wanted])[wanted].result(20).items()}

    eventually(lambda: values()["max.message.bytes"] == "2000", "the altered config")
    eventually(lambda: values()["retention.ms"] == "604800000", "the config back at its default")
    check(len(values()) >= 30, "all topic configs are listed")
    bad = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("no.such.config", "1", incremental_operation=AlterConfigOpType.SET)])
    refused(KafkaError.INVALID_CONFIG, lambda: client.incremental_alter_configs([bad])[bad].result(20))
    step("configs")


def offsets_and_trim(bootstrap, client):
    topic = unique("ck-trim")
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "enable.idempotence": IDEMPOTENT})
    for n in range(10):
        producer.produce(topic, b"%d" % n, partition=0, timestamp=1_000_000 + n * 1000)
        producer.flush(10)
    partition = TopicPartition(topic, 0)

    def offset(spec):
        return client.list_offsets({partition: spec})[partition].result(20).offset

    check_equal(offset(OffsetSpec.earliest()), 0, "earliest")
    check_equal(offset(OffsetSpec.latest()), 10, "latest")
    check_equal(offset(OffsetSpec.max_timestamp()), 9, "of the largest timestamp")
    check_equal(offset(OffsetSpec.for_timestamp(1_004_500)), 5, "by time")
    low = client.delete_records([TopicPartition(topic, 0, 4)])[partition].result(20).low_watermark
    check_equal(low, 4, "low watermark after the delete")
    check_equal(offset(OffsetSpec.earliest()), 4, "earliest after the delete")
    check_equal([m.value() for m in read_all(bootstrap, topic, 6)], [b"%d" % n for n in range(4, 10)], "what is left")
    step("offsets and delete records")


def groups_listed(bootstrap, client):
    topic, group = unique("ck-listed"), unique("ck-listed")
    send_all(bootstrap, topic, [(None, b"one", [])])
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)

    def listed():
        return [g.group_id for g in client.list_consumer_groups().result(20).valid]

    eventually(lambda: group in listed(), "the group is listed")
    consumer.close()
    patiently(lambda: client.delete_consumer_groups([group])[group].result(20))
    eventually(lambda: group not in listed(), "the group is deleted")
    refused(KafkaError.GROUP_ID_NOT_FOUND, lambda: client.delete_consumer_groups([group])[group].result(20))
    step("groups listed and deleted")


def refused(code, call):
    try:
        patiently(call)
    except KafkaException as error:
        check_equal(error.args[0].code(), code, f"refusal ({error.args[0].str()})")
        return
    raise AssertionError(f"error {code} expected")


def million(bootstrap, path):
    """Every line of a real file goes in and comes out again, in order."""
    topic = unique("ck-million")
    with open(path, "rb") as file:
        lines = file.read().splitlines()
    offsets = send_all_fast(bootstrap, topic, lines)
    check_equal(offsets, len(lines), "delivered records")
    got = [m.value() or b"" for m in read_all(bootstrap, topic, len(lines), seconds=400)]
    check_equal(len(got), len(lines), "number of lines")
    check(got == lines, "the same lines")
    step(f"{len(lines)} lines")


def send_all_fast(bootstrap, topic, lines):
    delivered, failures = [0], []

    def report(error, _message):
        if error:
            failures.append(str(error))
        else:
            delivered[0] += 1

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4",
                         "queue.buffering.max.messages": 2_000_000})
    for line in lines:
        producer.produce(topic, line, partition=0, on_delivery=report)
        producer.poll(0)
    check_equal(producer.flush(300), 0, "records left in the producer")
    check_equal(failures, [], "failed records")
    return delivered[0]


def chaos(bootstrap, topic):
    """The idempotent producer through a broker that is killed again and again; see ChaosProducer.java."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1,
                         "message.timeout.ms": 600_000, "request.timeout.ms": 3000, "retry.backoff.ms": 20,
                         "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200})
    failures = []

    def reported(value):
        def report(error, message):
            if error:
                failures.append(str(error))
            else:
                print(f"acked {value} {message.offset()}", flush=True)
        return report

    sent = 0
    while not failures and not select.select([sys.stdin], [], [], 0)[0]:
        # The backlog is bounded, so that each kill meets fresh records.
        if len(producer) < 1000:
            producer.produce(topic, b"%d" % sent, partition=0, on_delivery=reported(sent))
            sent += 1
        producer.poll(0.002 if sent % 50 == 0 else 0)
    check_equal(producer.flush(300), 0, "records left in the producer")
    check_equal(failures, [], "failed records")
    print(f"sent {sent}", flush=True)


main({"chaos": chaos, "roundtrip": roundtrip, "groups": groups, "admin": admin, "million": million,
      "former_coordinator": former_coordinator})
