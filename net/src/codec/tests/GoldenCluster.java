// Prints golden_cluster.txt: requests and responses of the cluster APIs as Kafka's own generated classes write them.
//
//     java -cp kafka-clients-4.3.1.jar:slf4j-api.jar GoldenCluster.java > golden_cluster.txt
import java.nio.ByteBuffer;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.protocol.*;

public class GoldenCluster {
    static final Uuid ID = new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L);

    static void print(String name, ApiMessage message, int version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        short v = (short) version;
        MessageSizeAccumulator size = new MessageSizeAccumulator();
        message.addSize(size, cache, v);
        ByteBuffer out = ByteBuffer.allocate(size.totalSize());
        message.write(new ByteBufferAccessor(out), cache, v);
        StringBuilder hex = new StringBuilder();
        for (byte b : out.array()) hex.append(String.format("%02x", b));
        System.out.println(name + " " + version + " " + hex);
    }

    public static void main(String[] arguments) {
        for (int v = 0; v <= 2; v++) electLeaders(v);
        for (int v = 0; v <= 1; v++) alterReassignments(v);
        listReassignments();
        for (int v = 0; v <= 2; v++) describeQuorum(v);
        for (int v = 0; v <= 2; v++) describeCluster(v);
        unregisterBroker();
        addRaftVoter();
        removeRaftVoter();
    }

    static void electLeaders(int v) {
        ElectLeadersRequestData request = new ElectLeadersRequestData().setTimeoutMs(1500);
        ElectLeadersRequestData.TopicPartitions topic =
            new ElectLeadersRequestData.TopicPartitions().setTopic("orders").setPartitions(List.of(0, 7));
        request.topicPartitions().add(topic);
        if (v >= 1) request.setElectionType((byte) 1);
        print("ElectLeadersRequest", request, v);

        ElectLeadersResponseData.PartitionResult row = new ElectLeadersResponseData.PartitionResult()
            .setPartitionId(7).setErrorCode((short) 80).setErrorMessage("no");
        ElectLeadersResponseData response = new ElectLeadersResponseData().setThrottleTimeMs(3)
            .setReplicaElectionResults(List.of(new ElectLeadersResponseData.ReplicaElectionResult()
                .setTopic("orders").setPartitionResult(List.of(row))));
        if (v >= 1) response.setErrorCode((short) 41);
        print("ElectLeadersResponse", response, v);
    }

    static void alterReassignments(int v) {
        AlterPartitionReassignmentsRequestData request = new AlterPartitionReassignmentsRequestData().setTimeoutMs(1500)
            .setTopics(List.of(new AlterPartitionReassignmentsRequestData.ReassignableTopic().setName("orders")
                .setPartitions(List.of(
                    new AlterPartitionReassignmentsRequestData.ReassignablePartition()
                        .setPartitionIndex(0).setReplicas(List.of(2, 3)),
                    new AlterPartitionReassignmentsRequestData.ReassignablePartition()
                        .setPartitionIndex(7).setReplicas(null)))));
        if (v >= 1) request.setAllowReplicationFactorChange(false);
        print("AlterPartitionReassignmentsRequest", request, v);

        AlterPartitionReassignmentsResponseData response = new AlterPartitionReassignmentsResponseData()
            .setThrottleTimeMs(3).setErrorCode((short) 41).setErrorMessage("no")
            .setResponses(List.of(new AlterPartitionReassignmentsResponseData.ReassignableTopicResponse().setName("orders")
                .setPartitions(List.of(new AlterPartitionReassignmentsResponseData.ReassignablePartitionResponse()
                    .setPartitionIndex(7).setErrorCode((short) 85).setErrorMessage(null)))));
        if (v >= 1) response.setAllowReplicationFactorChange(false);
        print("AlterPartitionReassignmentsResponse", response, v);
    }

    static void listReassignments() {
        print("ListPartitionReassignmentsRequest", new ListPartitionReassignmentsRequestData().setTimeoutMs(1500)
            .setTopics(List.of(new ListPartitionReassignmentsRequestData.ListPartitionReassignmentsTopics()
                .setName("orders").setPartitionIndexes(List.of(0, 7)))), 0);
        print("ListPartitionReassignmentsResponse", new ListPartitionReassignmentsResponseData()
            .setThrottleTimeMs(3).setErrorCode((short) 41).setErrorMessage("no")
            .setTopics(List.of(new ListPartitionReassignmentsResponseData.OngoingTopicReassignment().setName("orders")
                .setPartitions(List.of(new ListPartitionReassignmentsResponseData.OngoingPartitionReassignment()
                    .setPartitionIndex(7).setReplicas(List.of(1, 2, 3)).setAddingReplicas(List.of(3))
                    .setRemovingReplicas(List.of(1)))))), 0);
    }

    static void describeQuorum(int v) {
        print("DescribeQuorumRequest", new DescribeQuorumRequestData()
            .setTopics(List.of(new DescribeQuorumRequestData.TopicData().setTopicName("__cluster_metadata")
                .setPartitions(List.of(new DescribeQuorumRequestData.PartitionData().setPartitionIndex(0))))), v);
        DescribeQuorumResponseData.ReplicaState voter =
            new DescribeQuorumResponseData.ReplicaState().setReplicaId(1).setLogEndOffset(42);
        if (v >= 1) voter.setLastFetchTimestamp(1000).setLastCaughtUpTimestamp(1001);
        if (v >= 2) voter.setReplicaDirectoryId(ID);
        DescribeQuorumResponseData.PartitionData partition = new DescribeQuorumResponseData.PartitionData()
            .setPartitionIndex(0).setErrorCode((short) 6).setLeaderId(1).setLeaderEpoch(9).setHighWatermark(41)
            .setCurrentVoters(List.of(voter)).setObservers(List.of());
        DescribeQuorumResponseData response = new DescribeQuorumResponseData().setErrorCode((short) 41)
            .setTopics(List.of(new DescribeQuorumResponseData.TopicData().setTopicName("__cluster_metadata")
                .setPartitions(List.of(partition))));
        if (v >= 2) {
            partition.setErrorMessage("no");
            response.setErrorMessage("why");
            DescribeQuorumResponseData.Node node = new DescribeQuorumResponseData.Node().setNodeId(1);
            node.listeners().add(
                new DescribeQuorumResponseData.Listener().setName("RAFT").setHost("host").setPort(5001));
            response.nodes().add(node);
        }
        print("DescribeQuorumResponse", response, v);
    }

    static void describeCluster(int v) {
        DescribeClusterRequestData request = new DescribeClusterRequestData().setIncludeClusterAuthorizedOperations(true);
        if (v >= 1) request.setEndpointType((byte) 2);
        if (v >= 2) request.setIncludeFencedBrokers(true);
        print("DescribeClusterRequest", request, v);
        DescribeClusterResponseData response = new DescribeClusterResponseData().setThrottleTimeMs(3)
            .setErrorCode((short) 41).setErrorMessage("no").setClusterId("cid").setControllerId(1)
            .setClusterAuthorizedOperations(255);
        DescribeClusterResponseData.DescribeClusterBroker broker = new DescribeClusterResponseData.DescribeClusterBroker()
            .setBrokerId(1).setHost("h1").setPort(9092).setRack("r");
        if (v >= 1) response.setEndpointType((byte) 2);
        if (v >= 2) broker.setIsFenced(true);
        response.brokers().add(broker);
        print("DescribeClusterResponse", response, v);
    }

    static void unregisterBroker() {
        print("UnregisterBrokerRequest", new UnregisterBrokerRequestData().setBrokerId(3), 0);
        print("UnregisterBrokerResponse", new UnregisterBrokerResponseData().setThrottleTimeMs(3)
            .setErrorCode((short) 41).setErrorMessage("no"), 0);
    }

    static void addRaftVoter() {
        AddRaftVoterRequestData request = new AddRaftVoterRequestData().setClusterId("cid").setTimeoutMs(1500)
            .setVoterId(3).setVoterDirectoryId(ID);
        request.listeners().add(new AddRaftVoterRequestData.Listener().setName("RAFT").setHost("host").setPort(5001));
        print("AddRaftVoterRequest", request, 0);
        print("AddRaftVoterResponse", new AddRaftVoterResponseData().setThrottleTimeMs(3)
            .setErrorCode((short) 126).setErrorMessage("no"), 0);
    }

    static void removeRaftVoter() {
        print("RemoveRaftVoterRequest", new RemoveRaftVoterRequestData().setClusterId("cid").setVoterId(3)
            .setVoterDirectoryId(ID), 0);
        print("RemoveRaftVoterResponse", new RemoveRaftVoterResponseData().setThrottleTimeMs(3)
            .setErrorCode((short) 127).setErrorMessage("no"), 0);
    }
}
