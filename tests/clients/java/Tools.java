import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.common.utils.Exit;

/**
 * Kafka's console tools, each through its own main method as its shell script calls it, all in one JVM (a start of a JVM
 * costs more than most tools' work). Exits are trapped, standard input and output replaced for the time of a tool.
 */
final class Tools {
    private static final String TOOLS = "org.apache.kafka.tools.";

    private final String bootstrap;
    private final String topic = Checks.unique("tools");
    private final String group = Checks.unique("tools");

    private Tools(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    static void run(String bootstrap, String[] arguments) throws Exception {
        Tools tools = new Tools(bootstrap);
        tools.cluster();
        tools.topics();
        tools.configs();
        tools.console();
        tools.consumerGroups();
        tools.offsetsAndRecords();
        tools.logDirs();
        tools.performance();
        tools.deletes();
    }

    /** What a tool calls instead of ending the process. */
    private static final class Exited extends RuntimeException {
        final int code;

        Exited(int code) {
            super("exit " + code, null, false, false);
            this.code = code;
        }
    }

    /** Runs a tool that must succeed and gives its output. {@code --bootstrap-server} is added. */
    private String ok(String name, String... arguments) throws Exception {
        return ok(InputStream.nullInputStream(), name, arguments);
    }

    private String ok(InputStream input, String name, String... arguments) throws Exception {
        StringBuilder output = new StringBuilder();
        int code = call(input, output, name, arguments);
        Checks.check(code == 0, name + " " + String.join(" ", arguments) + " left with " + code + ":\n" + output);
        return output.toString();
    }

    private int call(InputStream input, StringBuilder output, String name, String... arguments) throws Exception {
        String[] address = {"--bootstrap-server", bootstrap};
        // kafka-cluster wants its command first; kafka-producer-perf-test takes the address as a property of its own.
        String[] all = switch (name) {
            case "ClusterTool" -> with(arguments, address);
            case "ProducerPerformance" -> arguments;
            default -> with(address, arguments);
        };
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        PrintStream stream = new PrintStream(bytes, true, StandardCharsets.UTF_8);
        InputStream standardInput = System.in;
        PrintStream standardOutput = System.out;
        PrintStream standardError = System.err;
        // The first exit counts: some tools catch what the trap throws and exit once more.
        Integer[] code = {null};
        Exit.Procedure exit = (status, message) -> {
            code[0] = code[0] == null ? status : code[0];
            throw new Exited(status);
        };
        Exit.setExitProcedure(exit);
        Exit.setHaltProcedure(exit);
        System.setIn(input);
        System.setOut(stream);
        System.setErr(stream);
        try {
            String full = name.startsWith("kafka.") ? name : TOOLS + name;
            Class.forName(full).getMethod("main", String[].class).invoke(null, (Object) all);
        } catch (java.lang.reflect.InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Exited) && code[0] == null) {
                code[0] = -1;
                thrown.getCause().printStackTrace(stream);
            }
        } finally {
            System.setIn(standardInput);
            System.setOut(standardOutput);
            System.setErr(standardError);
            output.append(bytes.toString(StandardCharsets.UTF_8));
        }
        return code[0] == null ? 0 : code[0];
    }

    private void refused(String expected, String name, String... arguments) throws Exception {
        StringBuilder output = new StringBuilder();
        int code = call(InputStream.nullInputStream(), output, name, arguments);
        Checks.check(code != 0, name + " must fail, but said:\n" + output);
        contains(output.toString(), expected);
    }

    private static void contains(String output, String expected) {
        Checks.check(output.contains(expected), "\"" + expected + "\" expected in:\n" + output);
    }

    private static InputStream lines(String... lines) {
        return new ByteArrayInputStream((String.join("\n", lines) + "\n").getBytes(StandardCharsets.UTF_8));
    }

    private void cluster() throws Exception {
        contains(ok("ClusterTool", "cluster-id"), "Cluster ID: ");
        contains(ok("BrokerApiVersionsCommand"), "Produce(0): ");
        Checks.step("kafka-cluster, kafka-broker-api-versions");
    }

    private void topics() throws Exception {
        contains(ok("TopicCommand", "--create", "--topic", topic, "--partitions", "2", "--replication-factor", "" + Checks.REPLICAS,
                "--config", "retention.ms=3600000"), "Created topic " + topic);
        Checks.eventually("the topic is listed", () -> ok("TopicCommand", "--list").contains(topic));
        refused("already exists", "TopicCommand", "--create", "--topic", topic);
        ok("TopicCommand", "--create", "--if-not-exists", "--topic", topic);
        // Whichever node is asked hears of a topic a moment after it was made.
        Checks.eventually("the topic can be altered", () -> call(InputStream.nullInputStream(), new StringBuilder(),
                "TopicCommand", "--alter", "--topic", topic, "--partitions", "3") == 0);
        Checks.eventually("its partitions are in sync", () -> !ok("TopicCommand", "--describe",
                "--under-replicated-partitions").contains("Topic: " + topic));
        String described = ok("TopicCommand", "--describe", "--topic", topic);
        contains(described, "PartitionCount: 3");
        contains(described, "retention.ms=3600000");
        Checks.equal(described.lines().filter(line -> line.contains("Leader: ")).count(), 3L, "partitions with a leader");
        Checks.step("kafka-topics");
    }

    private void configs() throws Exception {
        String config = "kafka.admin.ConfigCommand";
        String[] entity = {"--entity-type", "topics", "--entity-name", topic};
        contains(ok(config, with(entity, "--alter", "--add-config", "max.message.bytes=123456")), "Completed updating config");
        contains(ok(config, with(entity, "--describe")), "max.message.bytes=123456");
        ok(config, with(entity, "--alter", "--delete-config", "max.message.bytes"));
        String described = ok(config, with(entity, "--describe"));
        Checks.check(!described.contains("max.message.bytes"), "the config is gone:\n" + described);
        contains(ok(config, with(entity, "--describe", "--all")), "max.message.bytes=1048588");
        refused("no.such.config", config, with(entity, "--alter", "--add-config", "no.such.config=1"));
        String[] broker = {"--entity-type", "brokers", "--entity-default"};
        ok(config, with(broker, "--alter", "--add-config", "log.retention.ms=7200000"));
        contains(ok(config, with(broker, "--describe")), "log.retention.ms=7200000");
        ok(config, with(broker, "--alter", "--delete-config", "log.retention.ms"));
        Checks.step("kafka-configs");
    }

    private static String[] with(String[] first, String... rest) {
        String[] all = java.util.Arrays.copyOf(first, first.length + rest.length);
        System.arraycopy(rest, 0, all, first.length, rest.length);
        return all;
    }

    private void console() throws Exception {
        String[] sent = IntStream.range(0, 100).mapToObj(n -> "k" + n + ":line " + n).toArray(String[]::new);
        ok(lines(sent), "ConsoleProducer", "--topic", topic, "--reader-property", "parse.key=true",
                "--reader-property", "key.separator=:");
        String read = ok("consumer.ConsoleConsumer", "--topic", topic, "--group", group, "--from-beginning",
                "--max-messages", "100", "--timeout-ms", "20000", "--formatter-property", "print.key=true",
                "--formatter-property", "key.separator=:");
        var got = read.lines().filter(line -> line.startsWith("k")).collect(Collectors.toSet());
        Checks.equal(got, java.util.Set.of(sent), "lines read by the group");
        String again = ok("consumer.ConsoleConsumer", "--topic", topic, "--group", group, "--from-beginning",
                "--timeout-ms", "4000");
        Checks.check(again.lines().noneMatch(line -> line.startsWith("line")), "the group has nothing left to read:\n" + again);
        Checks.step("kafka-console-producer, kafka-console-consumer with a group");
    }

    private void consumerGroups() throws Exception {
        String tool = "consumer.group.ConsumerGroupCommand";
        contains(ok(tool, "--list"), group);
        String described = ok(tool, "--describe", "--group", group);
        long lag = described.lines().map(String::strip).filter(line -> line.startsWith(group))
                .mapToLong(line -> Long.parseLong(line.split("\\s+")[5])).sum();
        Checks.equal(lag, 0L, "lag in\n" + described);
        contains(ok(tool, "--describe", "--group", group, "--state"), "Empty");
        contains(ok(tool, "--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute"), topic);
        described = ok(tool, "--describe", "--group", group);
        lag = described.lines().map(String::strip).filter(line -> line.startsWith(group))
                .mapToLong(line -> Long.parseLong(line.split("\\s+")[5])).sum();
        Checks.equal(lag, 100L, "lag after the reset in\n" + described);
        ok(tool, "--delete-offsets", "--group", group, "--topic", topic);
        ok(tool, "--delete", "--group", group);
        Checks.check(!ok(tool, "--list").contains(group), "the group is deleted");
        Checks.step("kafka-consumer-groups: list, describe, reset, delete");
    }

    private long total(String time) throws Exception {
        return ok("GetOffsetShell", "--topic", topic, "--time", time).lines().map(line -> line.split(":"))
                .filter(part -> part.length == 3).mapToLong(part -> Long.parseLong(part[2].strip())).sum();
    }

    private void offsetsAndRecords() throws Exception {
        Checks.equal(total("latest"), 100L, "sum of latest offsets");
        Checks.equal(total("earliest"), 0L, "sum of earliest offsets");
        File file = File.createTempFile("delete-records", ".json", new File(System.getProperty("java.io.tmpdir")));
        Files.writeString(file.toPath(), "{\"version\":1,\"partitions\":[{\"topic\":\"" + topic
                + "\",\"partition\":0,\"offset\":3}]}");
        contains(ok("DeleteRecordsCommand", "--offset-json-file", file.getPath()), "low_watermark: 3");
        Checks.check(file.delete(), "the file is deleted");
        Checks.equal(total("earliest"), 3L, "sum of earliest offsets after the delete");
        Checks.step("kafka-get-offsets, kafka-delete-records");
    }

    private void logDirs() throws Exception {
        contains(ok("LogDirsCommand", "--describe", "--topic-list", topic), "\"partition\":\"" + topic + "-0\"");
        Checks.step("kafka-log-dirs");
    }

    private void performance() throws Exception {
        String perf = Checks.unique("tools-perf");
        String produced = ok("ProducerPerformance", "--topic", perf, "--num-records", "200000", "--record-size", "200",
                "--throughput", "-1", "--producer-props", "bootstrap.servers=" + bootstrap, "linger.ms=5");
        contains(produced, "200000 records sent");
        String consumed = ok("ConsumerPerformance", "--topic", perf, "--num-records", "200000", "--timeout", "30000");
        contains(consumed, "MB.sec");
        Checks.check(consumed.contains(" 200000, ") || consumed.contains(" 20"), "consumed:\n" + consumed);
        Checks.step("kafka-producer-perf-test: " + last(produced));
        Checks.step("kafka-consumer-perf-test: " + last(consumed));
        // By itself the tool makes one replica, which a cluster that asks for two in sync takes no record for.
        String timed = Checks.unique("tools-latency");
        ok("TopicCommand", "--create", "--topic", timed, "--partitions", "1", "--replication-factor", "" + Checks.REPLICAS);
        String latency = ok("EndToEndLatency", "--topic", timed, "--num-records", "200",
                "--producer-acks", "all", "--record-size", "100");
        contains(latency, "Avg latency");
        Checks.step("kafka-e2e-latency: " + last(latency));
    }

    private static String last(String output) {
        List<String> lines = output.lines().filter(line -> !line.isBlank()).toList();
        return lines.get(lines.size() - 1).strip();
    }

    private void deletes() throws Exception {
        ok("TopicCommand", "--delete", "--topic", topic);
        Checks.eventually("the topic is gone", () -> !ok("TopicCommand", "--list").contains(topic));
        refused("does not exist", "TopicCommand", "--delete", "--topic", topic);
        Checks.step("kafka-topics --delete");
    }
}
