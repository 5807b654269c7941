import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;

/** What the Java programs share: checks that end the program, names, configurations. */
final class Checks {
    /** Replicas of the topics that scenarios make: 1 against one node, 3 against three. */
    static final short REPLICAS = Short.parseShort(System.getenv().getOrDefault("CHRONIK_TEST_REPLICAS", "1"));

    private Checks() {
    }

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object actual, Object expected, String what) {
        if (!Objects.equals(actual, expected)) {
            throw new AssertionError(what + ": got " + actual + ", expected " + expected);
        }
    }

    static void step(String text) {
        System.out.println("ok " + text);
    }

    static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 12);
    }

    /** Runs {@code call}, which must fail because of an exception of class {@code kind}. */
    static void refused(Class<? extends Throwable> kind, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (ExecutionException error) {
            check(kind.isInstance(error.getCause()), kind.getSimpleName() + " expected, not " + error.getCause());
            return;
        }
        throw new AssertionError(kind.getSimpleName() + " expected, not success");
    }

    /**
     * Runs {@code round}. Against several nodes leaders move meanwhile, and what is sent without idempotence may then be lost
     * (acks=0), repeated or put out of order: of a few rounds one has to come through undisturbed.
     */
    static void undisturbed(Callable<Void> round) throws Exception {
        for (int left = REPLICAS == 1 ? 0 : 4; ; left--) {
            try {
                round.call();
                return;
            } catch (AssertionError error) {
                if (left == 0) {
                    throw error;
                }
                step("once more: " + error.getMessage());
            }
        }
    }

    /** Calls {@code probe} until it gives true, for at most 90 s. */
    static void eventually(String what, Callable<Boolean> probe) throws Exception {
        long deadline = System.nanoTime() + Duration.ofSeconds(90).toNanos();
        while (!probe.call()) {
            check(System.nanoTime() < deadline, "not within 90 s: " + what);
            Thread.sleep(50);
        }
    }

    /** Client configs: the address and pairs of name and value. */
    static Map<String, Object> configs(String bootstrap, Object... pairs) {
        Map<String, Object> configs = new HashMap<>();
        configs.put("bootstrap.servers", bootstrap);
        for (int n = 0; n < pairs.length; n += 2) {
            configs.put((String) pairs[n], pairs[n + 1]);
        }
        return configs;
    }
}
