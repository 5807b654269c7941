import java.util.List;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Field report 004 by the Java AdminClient: {@code report HOST:PORT BROKERS}. From one address it sees all brokers, creates topics one
 * by one and in one request, finds a leader for each partition, and reaches each of them.
 */
final class Report {
    private Report() {
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        int brokers = Integer.parseInt(arguments[2]);
        List<String> names = IntStream.range(0, 10).mapToObj(n -> Checks.unique("java-report")).toList();
        try (Admin admin = Admin.create(Checks.configs(bootstrap))) {
            Checks.equal(admin.describeCluster().nodes().get().size(), brokers, "brokers that the AdminClient sees");
            Checks.check(admin.describeCluster().controller().get() != null, "a controller");
            for (String name : names.subList(0, 5)) {
                admin.createTopics(List.of(newTopic(name, brokers))).all().get();
            }
            admin.createTopics(names.subList(5, 10).stream().map(name -> newTopic(name, brokers)).toList()).all().get();
            Checks.eventually("all are listed", () -> admin.listTopics().names().get().containsAll(names));
            Checks.eventually("all are led", () -> admin.describeTopics(names).allTopicNames().get().values().stream()
                    .flatMap(topic -> topic.partitions().stream()).allMatch(partition -> partition.leader() != null));
        }
        Checks.step("sees " + brokers + " brokers, creates ten topics");
        try (var producer = RoundTrip.producer(Checks.configs(bootstrap))) {
            for (String name : names) {
                for (int partition = 0; partition < 3; partition++) {
                    producer.send(new ProducerRecord<>(name, partition, null, RoundTrip.bytes("x"))).get();
                }
            }
        }
        Checks.step("a record in each of their partitions");
    }

    private static NewTopic newTopic(String name, int brokers) {
        return new NewTopic(name, 3, (short) Math.min(brokers, 3));
    }
}
