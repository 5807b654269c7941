// Prints golden.txt: messages as Kafka's own generated classes write them, one line a message and version.
//
//     java -cp kafka-clients-4.3.1.jar:slf4j-api.jar Golden.java > golden.txt
import java.nio.ByteBuffer;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.record.internal.MemoryRecords;

public class Golden {
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

    static MemoryRecords records(String text) {
        return MemoryRecords.readableRecords(ByteBuffer.wrap(text.getBytes()));
    }

    public static void main(String[] arguments) {
        for (int v = 3; v <= 13; v++) produce(v);
        for (int v = 4; v <= 18; v++) fetch(v);
        for (int v = 0; v <= 13; v++) metadata(v);
        for (int v = 0; v <= 4; v++) apiVersions(v);
    }

    static void produce(int v) {
        ProduceRequestData.TopicProduceData topic = new ProduceRequestData.TopicProduceData();
        if (v >= 13) topic.setTopicId(ID); else topic.setName("orders");
        topic.setPartitionData(List.of(
            new ProduceRequestData.PartitionProduceData().setIndex(0).setRecords(records("batch")),
            new ProduceRequestData.PartitionProduceData().setIndex(7).setRecords(null)));
        ProduceRequestData request = new ProduceRequestData().setTransactionalId("tx").setAcks((short) -1).setTimeoutMs(1500);
        request.topicData().add(topic);
        print("ProduceRequest", request, v);

        ProduceResponseData.PartitionProduceResponse partition = new ProduceResponseData.PartitionProduceResponse()
            .setIndex(4).setErrorCode((short) 6).setBaseOffset(42).setLogAppendTimeMs(1000);
        if (v >= 5) partition.setLogStartOffset(5);
        if (v >= 8) partition.setErrorMessage("no").setRecordErrors(List.of(
            new ProduceResponseData.BatchIndexAndErrorMessage().setBatchIndex(3).setBatchIndexErrorMessage("bad key"),
            new ProduceResponseData.BatchIndexAndErrorMessage().setBatchIndex(4)));
        if (v >= 10) partition.setCurrentLeader(new ProduceResponseData.LeaderIdAndEpoch().setLeaderId(2).setLeaderEpoch(9));
        ProduceResponseData.TopicProduceResponse answered = new ProduceResponseData.TopicProduceResponse();
        if (v >= 13) answered.setTopicId(ID); else answered.setName("orders");
        answered.setPartitionResponses(List.of(partition));
        ProduceResponseData response = new ProduceResponseData().setThrottleTimeMs(11);
        response.responses().add(answered);
        if (v >= 10) response.nodeEndpoints().add(
            new ProduceResponseData.NodeEndpoint().setNodeId(2).setHost("host").setPort(9092).setRack("r1"));
        print("ProduceResponse", response, v);
    }

    static void fetch(int v) {
        FetchRequestData.FetchPartition partition = new FetchRequestData.FetchPartition()
            .setPartition(4).setFetchOffset(100).setPartitionMaxBytes(4096);
        if (v >= 5) partition.setLogStartOffset(2);
        if (v >= 9) partition.setCurrentLeaderEpoch(6);
        if (v >= 12) partition.setLastFetchedEpoch(5);
        if (v >= 17) partition.setReplicaDirectoryId(ID);
        if (v >= 18) partition.setHighWatermark(55);
        FetchRequestData.FetchTopic topic = new FetchRequestData.FetchTopic().setPartitions(List.of(partition));
        FetchRequestData.ForgottenTopic forgotten = new FetchRequestData.ForgottenTopic().setPartitions(List.of(1, 2));
        if (v >= 13) { topic.setTopicId(ID); forgotten.setTopicId(ID); }
        else { topic.setTopic("orders"); forgotten.setTopic("orders"); }
        FetchRequestData request = new FetchRequestData().setMaxWaitMs(500).setMinBytes(1).setMaxBytes(1000000)
            .setIsolationLevel((byte) 1).setTopics(List.of(topic));
        if (v >= 7) request.setSessionId(8).setSessionEpoch(2).setForgottenTopicsData(List.of(forgotten));
        if (v >= 11) request.setRackId("ra");
        if (v >= 12) request.setClusterId("cid");
        if (v >= 15) request.setReplicaState(new FetchRequestData.ReplicaState().setReplicaId(3).setReplicaEpoch(77));
        else request.setReplicaId(3);
        print("FetchRequest", request, v);

        FetchResponseData.PartitionData full = new FetchResponseData.PartitionData().setPartitionIndex(4)
            .setErrorCode((short) 6).setHighWatermark(100).setLastStableOffset(90).setRecords(records("batches"))
            .setAbortedTransactions(List.of(new FetchResponseData.AbortedTransaction().setProducerId(1000).setFirstOffset(60)));
        if (v >= 5) full.setLogStartOffset(2);
        if (v >= 11) full.setPreferredReadReplica(3);
        if (v >= 12) full
            .setDivergingEpoch(new FetchResponseData.EpochEndOffset().setEpoch(5).setEndOffset(80))
            .setCurrentLeader(new FetchResponseData.LeaderIdAndEpoch().setLeaderId(2).setLeaderEpoch(9))
            .setSnapshotId(new FetchResponseData.SnapshotId().setEndOffset(70).setEpoch(4));
        FetchResponseData.PartitionData empty = new FetchResponseData.PartitionData().setPartitionIndex(5)
            .setHighWatermark(7).setLastStableOffset(7).setAbortedTransactions(null).setRecords(MemoryRecords.EMPTY);
        FetchResponseData.FetchableTopicResponse answered =
            new FetchResponseData.FetchableTopicResponse().setPartitions(List.of(full, empty));
        if (v >= 13) answered.setTopicId(ID); else answered.setTopic("orders");
        FetchResponseData response = new FetchResponseData().setThrottleTimeMs(3).setResponses(List.of(answered));
        if (v >= 7) response.setErrorCode((short) 70).setSessionId(8);
        if (v >= 16) response.nodeEndpoints().add(
            new FetchResponseData.NodeEndpoint().setNodeId(2).setHost("host").setPort(9092));
        print("FetchResponse", response, v);
    }

    static void metadata(int v) {
        MetadataRequestData.MetadataRequestTopic byName = new MetadataRequestData.MetadataRequestTopic().setName("orders");
        MetadataRequestData.MetadataRequestTopic byId = new MetadataRequestData.MetadataRequestTopic().setName(null).setTopicId(ID);
        MetadataRequestData request = new MetadataRequestData()
            .setTopics(v >= 10 ? List.of(byName, byId) : List.of(byName)).setAllowAutoTopicCreation(v < 4);
        if (v >= 8 && v <= 10) request.setIncludeClusterAuthorizedOperations(true);
        if (v >= 8) request.setIncludeTopicAuthorizedOperations(true);
        print("MetadataRequest", request, v);

        MetadataResponseData response = new MetadataResponseData().setThrottleTimeMs(11).setClusterId("cid").setControllerId(1);
        response.brokers().add(new MetadataResponseData.MetadataResponseBroker().setNodeId(1).setHost("h1").setPort(9092).setRack("r"));
        response.brokers().add(new MetadataResponseData.MetadataResponseBroker().setNodeId(2).setHost("h2").setPort(9093));
        MetadataResponseData.MetadataResponsePartition partition = new MetadataResponseData.MetadataResponsePartition()
            .setErrorCode((short) 5).setPartitionIndex(3).setLeaderId(-1).setReplicaNodes(List.of(1, 2)).setIsrNodes(List.of(2));
        if (v >= 5) partition.setOfflineReplicas(List.of(1));
        if (v >= 7) partition.setLeaderEpoch(12);
        MetadataResponseData.MetadataResponseTopic topic = new MetadataResponseData.MetadataResponseTopic()
            .setName("orders").setPartitions(List.of(partition)).setIsInternal(true);
        if (v >= 8) topic.setTopicAuthorizedOperations(255);
        if (v >= 10) topic.setTopicId(ID);
        response.topics().add(topic);
        if (v >= 8 && v <= 10) response.setClusterAuthorizedOperations(127);
        if (v >= 13) response.setErrorCode((short) 129);
        print("MetadataResponse", response, v);
    }

    static void apiVersions(int v) {
        print("ApiVersionsRequest", new ApiVersionsRequestData()
            .setClientSoftwareName("apache-kafka-java").setClientSoftwareVersion("4.3.1"), v);
        ApiVersionsResponseData response = new ApiVersionsResponseData().setErrorCode((short) 0).setThrottleTimeMs(4);
        response.apiKeys().add(new ApiVersionsResponseData.ApiVersion().setApiKey((short) 0).setMinVersion((short) 0).setMaxVersion((short) 13));
        response.apiKeys().add(new ApiVersionsResponseData.ApiVersion().setApiKey((short) 18).setMinVersion((short) 0).setMaxVersion((short) 4));
        if (v >= 4) response.supportedFeatures().add(new ApiVersionsResponseData.SupportedFeatureKey()
            .setName("group.version").setMinVersion((short) 0).setMaxVersion((short) 1));
        if (v >= 3) response.supportedFeatures().add(new ApiVersionsResponseData.SupportedFeatureKey()
            .setName("metadata.version").setMinVersion((short) 7).setMaxVersion((short) 27));
        print("ApiVersionsResponse", response, v);
    }
}
