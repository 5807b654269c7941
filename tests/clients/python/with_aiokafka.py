"""aiokafka against a broker."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from common import COMPRESSIONS, REPLICAS, check, check_equal, main, sample_records, step, unique


async def eventually(probe, what, seconds=90):
    for _ in range(seconds * 10):
        if probe():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


async def read_all(bootstrap, topic, count):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    records = []
    for _ in range(60):
        for batch in (await consumer.getmany(timeout_ms=500)).values():
            records.extend(batch)
        if len(records) >= count:
            break
    await consumer.stop()
    return records


async def roundtrip(bootstrap):
    for compression in COMPRESSIONS:
        topic, sent = unique("aio-round"), sample_records(compression, null_headers=False)
        chosen = None if compression == "none" else compression
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=chosen, linger_ms=5,
                                    enable_idempotence=compression == "lz4")
        await producer.start()
        futures = [await producer.send(topic, value=v, key=k, headers=h, partition=0) for k, v, h in sent]
        offsets = [(await future).offset for future in futures]
        check_equal(offsets, list(range(len(sent))), f"offsets with {compression}")
        await producer.stop()
        got = [(r.key, r.value, list(r.headers)) for r in await read_all(bootstrap, topic, len(sent))]
        check_equal(got, sent, f"records with {compression}")
        step(f"round trip with {compression}")


class Member:
    def __init__(self, bootstrap, topic, group):
        self.consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
            session_timeout_ms=6000, heartbeat_interval_ms=500, metadata_max_age_ms=1000)
        self.records, self.committed = [], 0

    async def start(self):
        await self.consumer.start()
        self.task = asyncio.create_task(self.work())

    async def work(self):
        while True:
            batches = await self.consumer.getmany(timeout_ms=200)
            for batch in batches.values():
                self.records.extend(batch)
            if batches:
                await self.consumer.commit()
                self.committed = len(self.records)

    def partitions(self):
        return len(self.consumer.assignment())

    async def stop(self):
        self.task.cancel()
        await self.consumer.stop()


async def groups(bootstrap):
    topic, group = unique("aio-group"), unique("aio-group")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 4, REPLICAS)])
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    for n in range(400):
        await producer.send(topic, b"%d" % n, partition=n % 4)
    await producer.flush()
    first, second = Member(bootstrap, topic, group), Member(bootstrap, topic, group)
    await first.start()
    await eventually(lambda: first.partitions() == 4 and first.committed == 400, "one member reads all")
    await second.start()
    await eventually(lambda: first.partitions() == 2 and second.partitions() == 2, "a second member takes half")
    await second.stop()
    await eventually(lambda: first.partitions() == 4, "the partitions come back")
    await first.stop()
    committed = await admin.list_consumer_group_offsets(group)
    check_equal({p.partition: o.offset for p, o in committed.items()}, {n: 100 for n in range(4)}, "committed")
    await producer.send_and_wait(topic, b"after", partition=2)
    again = Member(bootstrap, topic, group)
    await again.start()
    await eventually(lambda: again.records, "the group resumes")
    check_equal([(r.partition, r.offset) for r in again.records], [(2, 100)], "resumed where it was")
    await again.stop()
    await producer.stop()
    check(group in [g[0] for g in await admin.list_consumer_groups()], "the group is listed")
    await admin.delete_topics([topic])
    await admin.close()
    step("groups")


main({
    "roundtrip": lambda bootstrap: asyncio.run(roundtrip(bootstrap)),
    "groups": lambda bootstrap: asyncio.run(groups(bootstrap)),
})
