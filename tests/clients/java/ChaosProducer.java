import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * The default producer (idempotent, acks=all) through a broker that is killed again and again:
 * {@code chaos HOST:PORT TOPIC}. Sends 0, 1, 2… to partition 0, prints each acknowledged value with its offset, and stops when
 * standard input ends. Retries go on for ten minutes, so that no record may fail.
 */
final class ChaosProducer {
    private ChaosProducer() {
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        String topic = arguments[2];
        AtomicReference<Exception> failure = new AtomicReference<>();
        var configs = Checks.configs(bootstrap, "delivery.timeout.ms", 600_000, "request.timeout.ms", 3000,
                "retry.backoff.ms", 20, "reconnect.backoff.ms", 20, "reconnect.backoff.max.ms", 200, "linger.ms", 1,
                "max.block.ms", 60_000, "buffer.memory", 1_000_000);
        long sent = 0;
        try (var producer = RoundTrip.producer(configs)) {
            while (System.in.available() == 0 && failure.get() == null) {
                long value = sent++;
                producer.send(new ProducerRecord<>(topic, 0, null, RoundTrip.bytes("" + value)), (metadata, error) -> {
                    if (error != null) {
                        failure.compareAndSet(null, error);
                    } else {
                        System.out.println("acked " + value + " " + metadata.offset());
                    }
                });
                if (value % 50 == 0) {
                    Thread.sleep(2);
                }
            }
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        System.out.println("sent " + sent);
    }
}
