import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidRequestException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** The AdminClient: topics, configs, offsets, cluster. */
final class Administration {
    private Administration() {
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Checks.configs(bootstrap))) {
            cluster(admin);
            String topic = topics(admin);
            refusals(admin, topic);
            configs(admin, topic);
            offsets(bootstrap, admin);
            deletes(admin, topic);
        }
    }

    private static NewTopic newTopic(String name, int partitions, int replicas, Map<String, String> configs) {
        return new NewTopic(name, partitions, (short) replicas).configs(configs);
    }

    private static void cluster(Admin admin) throws Exception {
        var described = admin.describeCluster();
        Checks.check(!described.clusterId().get().isEmpty(), "cluster id");
        Checks.check(!described.nodes().get().isEmpty() && described.controller().get() != null, "nodes and controller");
        Checks.check(admin.describeFeatures().featureMetadata().get() != null, "features");
        Checks.step("describe cluster");
    }

    private static String topics(Admin admin) throws Exception {
        String topic = Checks.unique("java-admin");
        var created = admin.createTopics(List.of(newTopic(topic, 3, Checks.REPLICAS, Map.of("retention.ms", "3600000"))));
        created.all().get();
        Uuid id = created.topicId(topic).get();
        Checks.check(!id.equals(Uuid.ZERO_UUID), "topic id in the answer");
        Checks.equal(created.numPartitions(topic).get(), 3, "partitions in the answer");
        Checks.equal(created.config(topic).get().get("retention.ms").value(), "3600000", "config in the answer");
        Checks.check(admin.listTopics().names().get().contains(topic), "listed");
        TopicDescription byId = admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get().get(id);
        Checks.equal(byId.name(), topic, "described by id");
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        Checks.eventually("five partitions", () -> describe(admin, topic).partitions().size() == 5);
        Checks.eventually("leader and in-sync set of each", () -> describe(admin, topic).partitions().stream()
                .allMatch(partition -> partition.leader() != null && partition.isr().size() == Checks.REPLICAS));
        String imagined = Checks.unique("java-dry");
        var dry = new CreateTopicsOptions().validateOnly(true);
        admin.createTopics(List.of(newTopic(imagined, 1, Checks.REPLICAS, Map.of())), dry).all().get();
        Checks.check(!admin.listTopics().names().get().contains(imagined), "validate-only makes nothing");
        String byDefault = Checks.unique("java-default");
        admin.createTopics(List.of(new NewTopic(byDefault, Optional.empty(), Optional.empty()))).all().get();
        Checks.equal(describe(admin, byDefault).partitions().size(), 1, "default partitions");
        Checks.step("create, list, describe, create partitions, validate only, defaults");
        return topic;
    }

    /** Describes a topic that is there. Kafka's brokers hear of a topic a little after it was made: that is waited out. */
    private static TopicDescription describe(Admin admin, String topic) throws Exception {
        Checks.eventually(topic + " is described", () -> {
            try {
                return admin.describeTopics(List.of(topic)).allTopicNames().get() != null;
            } catch (ExecutionException error) {
                Checks.check(error.getCause() instanceof UnknownTopicOrPartitionException, "describe: " + error.getCause());
                return false;
            }
        });
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private static void refusals(Admin admin, String topic) throws Exception {
        Map<NewTopic, Class<? extends Throwable>> refused = new HashMap<>();
        refused.put(newTopic(topic, 1, Checks.REPLICAS, Map.of()), TopicExistsException.class);
        refused.put(newTopic("..", 1, Checks.REPLICAS, Map.of()), InvalidTopicException.class);
        refused.put(newTopic("with space", 1, Checks.REPLICAS, Map.of()), InvalidTopicException.class);
        refused.put(newTopic("x".repeat(250), 1, Checks.REPLICAS, Map.of()), InvalidTopicException.class);
        refused.put(newTopic("java-bad", 0, Checks.REPLICAS, Map.of()), InvalidPartitionsException.class);
        refused.put(newTopic("java-bad", 1, 9, Map.of()), InvalidReplicationFactorException.class);
        refused.put(newTopic("java-bad", 1, Checks.REPLICAS, Map.of("no.such.config", "1")), InvalidConfigurationException.class);
        refused.put(newTopic("java-bad", 1, Checks.REPLICAS, Map.of("retention.ms", "soon")), InvalidConfigurationException.class);
        refused.put(newTopic("java-bad", 1, Checks.REPLICAS, Map.of("retention.ms", "-2")), InvalidConfigurationException.class);
        for (var entry : refused.entrySet()) {
            Checks.refused(entry.getValue(), () -> admin.createTopics(List.of(entry.getKey())).all().get());
        }
        Checks.refused(InvalidPartitionsException.class,
                () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all().get());
        Checks.refused(UnknownTopicOrPartitionException.class,
                () -> admin.createPartitions(Map.of("java-absent", NewPartitions.increaseTo(2))).all().get());
        Checks.refused(UnknownTopicOrPartitionException.class,
                () -> admin.describeTopics(List.of("java-absent")).allTopicNames().get());
        Checks.step("refusals");
    }

    private static Config config(Admin admin, ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private static void configs(Admin admin, String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Checks.equal(config(admin, resource).get("retention.ms").source(),
                ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "source of a topic's own config");
        Checks.equal(config(admin, resource).get("segment.bytes").source(),
                ConfigEntry.ConfigSource.DEFAULT_CONFIG, "source of a default");
        Checks.equal(config(admin, resource).get("retention.ms").type(), ConfigEntry.ConfigType.LONG, "type");
        alter(admin, resource, "max.message.bytes", "2000", AlterConfigOp.OpType.SET);
        alter(admin, resource, "retention.ms", "", AlterConfigOp.OpType.DELETE);
        Checks.eventually("altered configs", () -> config(admin, resource).get("max.message.bytes").value().equals("2000")
                && config(admin, resource).get("retention.ms").value().equals("604800000"));
        Checks.refused(InvalidConfigurationException.class, () -> alter(admin, resource, "no.such", "1", AlterConfigOp.OpType.SET));
        Checks.refused(InvalidConfigurationException.class,
                () -> alter(admin, resource, "segment.bytes", "many", AlterConfigOp.OpType.SET));
        Checks.refused(UnknownTopicOrPartitionException.class, () -> alter(admin,
                new ConfigResource(ConfigResource.Type.TOPIC, "java-absent"), "segment.bytes", "2000000", AlterConfigOp.OpType.SET));
        int id = admin.describeCluster().nodes().get().iterator().next().id();
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "" + id);
        Checks.check(config(admin, broker).entries().size() > 200, "broker configs are listed");
        alter(admin, broker, "log.retention.ms", "7200000", AlterConfigOp.OpType.SET);
        Checks.eventually("a dynamic broker config", () -> "7200000".equals(config(admin, broker).get("log.retention.ms").value()));
        Checks.eventually("the topic follows it", () -> config(admin, resource).get("retention.ms").value().equals("7200000"));
        alter(admin, broker, "log.retention.ms", "", AlterConfigOp.OpType.DELETE);
        Checks.refused(InvalidRequestException.class,
                () -> alter(admin, broker, "log.retention.ms", "soon", AlterConfigOp.OpType.SET));
        Checks.step("configs of topics and brokers");
    }

    private static Void alter(Admin admin, ConfigResource resource, String name, String value, AlterConfigOp.OpType type)
            throws Exception {
        var operation = new AlterConfigOp(new ConfigEntry(name, value), type);
        return admin.incrementalAlterConfigs(Map.of(resource, List.of(operation))).all().get();
    }

    private static long offset(Admin admin, TopicPartition partition, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(partition, spec)).all().get().get(partition).offset();
    }

    private static void offsets(String bootstrap, Admin admin) throws Exception {
        String topic = Checks.unique("java-trim");
        long start = System.currentTimeMillis() - 3_600_000;
        try (var producer = RoundTrip.producer(Checks.configs(bootstrap))) {
            for (int n = 0; n < 10; n++) {
                long timestamp = n == 6 ? start + 60_000 : start + n * 1000L;
                producer.send(new ProducerRecord<>(topic, 0, timestamp, null, RoundTrip.bytes("" + n))).get();
            }
        }
        TopicPartition partition = new TopicPartition(topic, 0);
        Checks.equal(offset(admin, partition, OffsetSpec.earliest()), 0L, "earliest");
        Checks.equal(offset(admin, partition, OffsetSpec.latest()), 10L, "latest");
        Checks.equal(offset(admin, partition, OffsetSpec.maxTimestamp()), 6L, "of the largest timestamp");
        Checks.equal(offset(admin, partition, OffsetSpec.forTimestamp(start + 3500)), 4L, "by time");
        Checks.equal(offset(admin, partition, OffsetSpec.forTimestamp(start + 90_000)), -1L, "by a time past the end");
        Checks.equal(offset(admin, partition, OffsetSpec.earliestLocal()), 0L, "earliest local");
        Checks.equal(admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(4))).lowWatermarks().get(partition)
                .get().lowWatermark(), 4L, "low watermark");
        Checks.equal(offset(admin, partition, OffsetSpec.earliest()), 4L, "earliest after the delete");
        Checks.equal(RoundTrip.readAll(bootstrap, topic, 6).get(0).offset(), 4L, "first record after the delete");
        Checks.refused(OffsetOutOfRangeException.class,
                () -> admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(11))).all().get());
        admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(-1))).all().get();
        Checks.equal(offset(admin, partition, OffsetSpec.earliest()), 10L, "earliest after all was deleted");
        Checks.step("offsets of all kinds, delete records");
        int broker = admin.describeCluster().nodes().get().iterator().next().id();
        var directories = admin.describeLogDirs(Set.of(broker)).allDescriptions().get().get(broker).values();
        Checks.check(directories.stream().anyMatch(d -> d.replicaInfos().containsKey(partition)), "the log directory has it");
        Checks.step("log directories");
    }

    private static void deletes(Admin admin, String topic) throws Exception {
        Uuid id = describe(admin, topic).topicId();
        admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get();
        Checks.eventually("the topic is gone", () -> !admin.listTopics().names().get().contains(topic));
        Checks.refused(UnknownTopicIdException.class, () -> admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get());
        Checks.refused(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of(topic)).all().get());
        admin.createTopics(List.of(newTopic(topic, 1, Checks.REPLICAS, Map.of()))).all().get();
        Checks.check(!describe(admin, topic).topicId().equals(id), "a topic made again has a new id");
        Checks.step("delete by id and name, a new id when made again");
    }
}
