import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Records of all shapes through every compression, with the default (idempotent) producer and without idempotence. */
final class RoundTrip {
    private RoundTrip() {
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        for (String compression : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            roundTrip(bootstrap, Checks.configs(bootstrap, "compression.type", compression, "linger.ms", 5));
            Checks.step("round trip with " + compression);
        }
        Checks.undisturbed(() -> roundTrip(bootstrap, Checks.configs(bootstrap, "enable.idempotence", false, "acks", "1")));
        Checks.step("round trip with acks=1, not idempotent");
        Checks.undisturbed(() -> withoutAcknowledgement(bootstrap));
        manySmall(bootstrap);
        tooLarge(bootstrap);
        positions(bootstrap);
    }

    static KafkaProducer<byte[], byte[]> producer(Map<String, Object> configs) {
        return new KafkaProducer<>(configs, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> configs) {
        return new KafkaConsumer<>(configs, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static List<ProducerRecord<byte[], byte[]>> sampleRecords(String topic) {
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        records.add(new ProducerRecord<>(topic, 0, null, bytes("no key")));
        records.add(new ProducerRecord<>(topic, 0, bytes("key"), null));
        records.add(new ProducerRecord<>(topic, 0, new byte[0], new byte[0]));
        ProducerRecord<byte[], byte[]> headers = new ProducerRecord<>(topic, 0, bytes("headers"), bytes("v"));
        headers.headers().add("one", bytes("1")).add("one", bytes("again")).add("null", null).add("empty", new byte[0]);
        records.add(headers);
        records.add(new ProducerRecord<>(topic, 0, bytes("large"), new byte[300_000]));
        for (int n = 0; n < 200; n++) {
            records.add(new ProducerRecord<>(topic, 0, bytes("k" + n), bytes("value " + n)));
        }
        return records;
    }

    private static Void roundTrip(String bootstrap, Map<String, Object> configs) throws Exception {
        String topic = Checks.unique("java-round");
        List<ProducerRecord<byte[], byte[]>> sent = sampleRecords(topic);
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (var producer = producer(configs)) {
            for (var record : sent) {
                answers.add(producer.send(record));
            }
        }
        for (int n = 0; n < sent.size(); n++) {
            Checks.equal(answers.get(n).get().offset(), (long) n, "offset of record " + n);
        }
        List<ConsumerRecord<byte[], byte[]>> got = readAll(bootstrap, topic, sent.size());
        for (int n = 0; n < sent.size(); n++) {
            Checks.equal(got.get(n).offset(), (long) n, "place of record " + n);
            Checks.check(Arrays.equals(got.get(n).key(), sent.get(n).key()), "key of record " + n);
            Checks.check(Arrays.equals(got.get(n).value(), sent.get(n).value()), "value of record " + n);
            Header[] actual = got.get(n).headers().toArray();
            Header[] expected = sent.get(n).headers().toArray();
            Checks.check(Arrays.equals(actual, expected), "headers of record " + n);
        }
        return null;
    }

    /** The first {@code count} records of partition 0. */
    static List<ConsumerRecord<byte[], byte[]>> readAll(String bootstrap, String topic, int count) {
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        try (var consumer = consumer(Checks.configs(bootstrap))) {
            TopicPartition partition = new TopicPartition(topic, 0);
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (records.size() < count) {
                Checks.check(System.nanoTime() < deadline, "only " + records.size() + " of " + count + " records of " + topic);
                consumer.poll(Duration.ofMillis(500)).forEach(records::add);
            }
        }
        Checks.equal(records.size(), count, "records of " + topic);
        return records;
    }

    private static Void withoutAcknowledgement(String bootstrap) throws Exception {
        String topic = Checks.unique("java-acks0");
        try (var producer = producer(Checks.configs(bootstrap, "acks", "0", "enable.idempotence", false))) {
            for (int n = 0; n < 1000; n++) {
                producer.send(new ProducerRecord<>(topic, 0, null, bytes("" + n)));
            }
        }
        Checks.equal(new String(readAll(bootstrap, topic, 1000).get(999).value(), StandardCharsets.UTF_8), "999", "last");
        Checks.step("acks=0");
        return null;
    }

    /** Five requests in flight at linger 0: sequences must stay in order. */
    private static void manySmall(String bootstrap) throws Exception {
        String topic = Checks.unique("java-small");
        int count = 50_000;
        try (var producer = producer(Checks.configs(bootstrap, "linger.ms", 0, "batch.size", 2000))) {
            for (int n = 0; n < count; n++) {
                producer.send(new ProducerRecord<>(topic, 0, null, bytes("" + n)));
            }
        }
        var records = readAll(bootstrap, topic, count);
        for (int n = 0; n < count; n++) {
            Checks.equal(new String(records.get(n).value(), StandardCharsets.UTF_8), "" + n, "record in order");
        }
        Checks.step(count + " small records in order, idempotent");
    }

    private static void tooLarge(String bootstrap) throws Exception {
        String topic = Checks.unique("java-large");
        try (var producer = producer(Checks.configs(bootstrap, "max.request.size", 8_000_000, "buffer.memory", 32_000_000))) {
            var record = new ProducerRecord<>(topic, 0, (byte[]) null, new byte[3_000_000]);
            Checks.refused(RecordTooLargeException.class, () -> producer.send(record).get());
            Checks.equal(producer.send(new ProducerRecord<>(topic, 0, null, new byte[500_000])).get().offset(), 0L, "offset");
        }
        Checks.step("a record above max.message.bytes is refused, the next goes on");
    }

    private static void positions(String bootstrap) throws Exception {
        String topic = Checks.unique("java-time");
        long start = System.currentTimeMillis() - 3_600_000;
        try (var producer = producer(Checks.configs(bootstrap))) {
            for (int n = 0; n < 10; n++) {
                producer.send(new ProducerRecord<>(topic, 0, start + n * 1000L, null, bytes("" + n))).get();
            }
        }
        TopicPartition partition = new TopicPartition(topic, 0);
        try (var consumer = consumer(Checks.configs(bootstrap, "isolation.level", "read_committed"))) {
            Checks.equal(consumer.beginningOffsets(List.of(partition)), Map.of(partition, 0L), "earliest");
            Checks.equal(consumer.endOffsets(List.of(partition)), Map.of(partition, 10L), "latest, read committed");
            OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, start + 4500)).get(partition);
            Checks.equal(found.offset(), 5L, "offset by time");
            Checks.equal(found.timestamp(), start + 5000, "timestamp by time");
            consumer.assign(List.of(partition));
            consumer.seek(partition, 7);
            var records = consumer.poll(Duration.ofSeconds(10)).records(partition);
            Checks.equal(records.get(0).offset(), 7L, "seek");
        }
        Checks.step("earliest, latest, by time, seek");
    }
}
