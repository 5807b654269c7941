import java.util.Map;

/** The Java producer, consumer and AdminClient against a broker: {@code java Clients SCENARIO HOST:PORT [ARGUMENT]...}. */
public final class Clients {
    private Clients() {
    }

    interface Scenario {
        void run(String bootstrap, String[] arguments) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Scenario> scenarios = Map.of(
                "roundtrip", RoundTrip::run,
                "groups", Groups::run,
                "admin", Administration::run,
                "tools", Tools::run,
                "report", Report::run,
                "chaos", ChaosProducer::run);
        try {
            scenarios.get(arguments[0]).run(arguments[1], arguments);
        } catch (Throwable failure) {
            failure.printStackTrace(System.out);
            System.out.flush();
            Runtime.getRuntime().halt(1);
        }
        System.out.println("passed " + arguments[0]);
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }
}
