import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;

/** Classic consumer groups: join, rebalance, commit, resume, static members, and their administration. */
final class Groups {
    private Groups() {
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Checks.configs(bootstrap))) {
            for (Class<?> assignor : List.of(RangeAssignor.class, CooperativeStickyAssignor.class)) {
                String topic = topicWithRecords(bootstrap, admin);
                rebalances(bootstrap, admin, topic, assignor);
                Checks.step("group with " + assignor.getSimpleName());
            }
            String topic = topicWithRecords(bootstrap, admin);
            resumes(bootstrap, admin, topic);
            staticMember(bootstrap, admin, topic);
        }
    }

    private static String topicWithRecords(String bootstrap, Admin admin) throws Exception {
        String topic = Checks.unique("java-group");
        admin.createTopics(List.of(new NewTopic(topic, 4, Checks.REPLICAS))).all().get();
        try (var producer = RoundTrip.producer(Checks.configs(bootstrap))) {
            for (int n = 0; n < 400; n++) {
                producer.send(new ProducerRecord<>(topic, n % 4, null, RoundTrip.bytes("" + n)));
            }
        }
        return topic;
    }

    /** A group member on a thread of its own: polls, commits, until told to stop. */
    static final class Member extends Thread implements ConsumerRebalanceListener {
        private final KafkaConsumer<byte[], byte[]> consumer;
        final Set<TopicPartition> owned = ConcurrentHashMap.newKeySet();
        final Set<String> read = ConcurrentHashMap.newKeySet();
        private volatile boolean stopping;
        private volatile Exception failure;

        Member(String bootstrap, String topic, String group, Object... options) {
            Map<String, Object> configs = Checks.configs(bootstrap, options);
            configs.put("group.id", group);
            configs.put("auto.offset.reset", "earliest");
            configs.put("enable.auto.commit", false);
            configs.put("session.timeout.ms", 6000);
            configs.put("heartbeat.interval.ms", 500);
            consumer = RoundTrip.consumer(configs);
            consumer.subscribe(List.of(topic), this);
            start();
        }

        @Override
        public void run() {
            try (consumer) {
                while (!stopping) {
                    List<String> polled = new ArrayList<>();
                    consumer.poll(Duration.ofMillis(100)).forEach(r -> polled.add(r.partition() + "/" + r.offset()));
                    if (!polled.isEmpty()) {
                        consumer.commitSync();
                        read.addAll(polled);
                    }
                }
            } catch (Exception error) {
                failure = error;
            }
        }

        void leave() throws Exception {
            stopping = true;
            join();
            if (failure != null) {
                throw failure;
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            owned.addAll(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            owned.removeAll(partitions);
        }
    }

    private static void rebalances(String bootstrap, Admin admin, String topic, Class<?> assignor) throws Exception {
        String group = Checks.unique("java-group");
        Object[] options = {"partition.assignment.strategy", List.of(assignor.getName())};
        Member first = new Member(bootstrap, topic, group, options);
        Checks.eventually("one member reads all", () -> first.owned.size() == 4 && first.read.size() == 400);
        Member second = new Member(bootstrap, topic, group, options);
        Checks.eventually("a second member takes half", () -> first.owned.size() == 2 && second.owned.size() == 2);
        Checks.eventually("the group is stable", () -> describe(admin, group).groupState() == GroupState.STABLE);
        Checks.equal(describe(admin, group).members().size(), 2, "described members");
        Checks.refused(GroupNotEmptyException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        second.leave();
        Checks.eventually("the partitions come back", () -> first.owned.size() == 4);
        first.leave();
        Checks.eventually("the group is empty", () -> describe(admin, group).groupState() == GroupState.EMPTY);
        Map<TopicPartition, Long> expected = IntStream.range(0, 4).boxed()
                .collect(Collectors.toMap(n -> new TopicPartition(topic, n), n -> 100L));
        Checks.equal(committed(admin, group), expected, "committed offsets");
        administer(admin, topic, group);
    }

    private static ConsumerGroupDescription describe(Admin admin, String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }

    private static Map<TopicPartition, Long> committed(Admin admin, String group) throws Exception {
        return admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().entrySet().stream()
                .filter(entry -> entry.getValue() != null)
                .collect(Collectors.toMap(Map.Entry::getKey, entry -> entry.getValue().offset()));
    }

    private static void administer(Admin admin, String topic, String group) throws Exception {
        TopicPartition zero = new TopicPartition(topic, 0);
        TopicPartition one = new TopicPartition(topic, 1);
        admin.alterConsumerGroupOffsets(group, Map.of(zero, new OffsetAndMetadata(7, "by hand"))).all().get();
        Checks.equal(committed(admin, group).get(zero), 7L, "altered offset");
        admin.deleteConsumerGroupOffsets(group, Set.of(one)).all().get();
        Checks.check(!committed(admin, group).containsKey(one), "deleted offset");
        Checks.check(listed(admin, group), "the group is listed");
        admin.deleteConsumerGroups(List.of(group)).all().get();
        Checks.check(!listed(admin, group), "the group is deleted");
        Checks.refused(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        Checks.refused(GroupIdNotFoundException.class, () -> admin.describeConsumerGroups(List.of(group)).all().get());
    }

    private static boolean listed(Admin admin, String group) throws Exception {
        return admin.listGroups().all().get().stream().anyMatch(listing -> listing.groupId().equals(group));
    }

    private static void resumes(String bootstrap, Admin admin, String topic) throws Exception {
        String group = Checks.unique("java-resume");
        Member first = new Member(bootstrap, topic, group);
        Checks.eventually("all is read", () -> first.read.size() == 400);
        first.leave();
        try (var producer = RoundTrip.producer(Checks.configs(bootstrap))) {
            producer.send(new ProducerRecord<>(topic, 2, null, RoundTrip.bytes("after"))).get();
        }
        Member again = new Member(bootstrap, topic, group);
        Checks.eventually("the group resumes", () -> !again.read.isEmpty());
        Checks.equal(again.read, Set.of("2/100"), "resumed where it was");
        again.leave();
        Checks.step("commit and resume");
    }

    private static void staticMember(String bootstrap, Admin admin, String topic) throws Exception {
        String group = Checks.unique("java-static");
        for (int round = 0; round < 2; round++) {
            Member member = new Member(bootstrap, topic, group, "group.instance.id", "one");
            Checks.eventually("a static member joins", () -> member.owned.size() == 4);
            member.leave();
            Checks.equal(describe(admin, group).members().size(), 1, "a static member stays when it closes");
        }
        var remove = new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("one")));
        admin.removeMembersFromConsumerGroup(group, remove).all().get();
        Checks.equal(describe(admin, group).members().size(), 0, "removed by its instance id");
        Checks.step("static membership");
    }
}
