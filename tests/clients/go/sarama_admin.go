package main

import (
	"context"
	"errors"
	"strings"

	"github.com/IBM/sarama"
)

func saramaAdmin(_ context.Context, bootstrap string) {
	for _, version := range []sarama.KafkaVersion{sarama.DefaultVersion, sarama.MaxVersion} {
		admin, err := sarama.NewClusterAdmin([]string{bootstrap}, saramaConfig(version))
		must(err, "open an admin")
		saramaTopics(admin, bootstrap, version)
		must(admin.Close(), "close")
		step("admin as of " + version.String())
	}
}

func saramaTopics(admin sarama.ClusterAdmin, bootstrap string, version sarama.KafkaVersion) {
	topic, hour := unique("sarama-admin"), "3600000"
	detail := func(partitions int32, replicas int16) *sarama.TopicDetail {
		return &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replicas, ConfigEntries: map[string]*string{"retention.ms": &hour}}
	}
	must(admin.CreateTopic(topic, detail(3, replicas()), true), "validate")
	must(admin.CreateTopic(topic, detail(3, replicas()), false), "create")
	refused := func(name string, detail *sarama.TopicDetail, wanted sarama.KError) {
		err := admin.CreateTopic(name, detail, false)
		check(errors.Is(err, wanted), "create %s: %v instead of %v", name, err, wanted)
	}
	refused(topic, detail(1, 1), sarama.ErrTopicAlreadyExists)
	refused("..", detail(1, 1), sarama.ErrInvalidTopic)
	refused("sarama-bad", detail(0, 1), sarama.ErrInvalidPartitions)
	refused("sarama-bad", detail(1, 100), sarama.ErrInvalidReplicationFactor)
	topics, err := admin.ListTopics()
	must(err, "list")
	listed := topics[topic]
	check(listed.NumPartitions == 3 && *listed.ConfigEntries["retention.ms"] == hour, "the topic is listed: %+v", listed)
	must(admin.CreatePartitions(topic, 5, nil, false), "create partitions")
	eventually("five partitions", func() bool {
		described, err := admin.DescribeTopics([]string{topic})
		return err == nil && len(described) == 1 && described[0].Err == sarama.ErrNoError && len(described[0].Partitions) == 5
	})
	saramaConfigs(admin, topic)
	saramaOffsets(admin, bootstrap, topic, version)
	brokers, controller, err := admin.DescribeCluster()
	must(err, "describe the cluster")
	check(len(brokers) >= 1 && controller >= 0, "the cluster is described")
	directories, err := admin.DescribeLogDirs([]int32{brokers[0].ID()})
	must(err, "describe the log directories")
	check(len(directories[brokers[0].ID()]) == 1, "one log directory")
	moving, err := admin.ListPartitionReassignments(topic, []int32{0})
	must(err, "list reassignments")
	check(len(moving[topic]) == 0, "nothing is being moved")
	must(admin.DeleteTopic(topic), "delete")
	eventually("the topic is gone", func() bool {
		topics, err := admin.ListTopics()
		_, there := topics[topic]
		return err == nil && !there
	})
}

func saramaConfigs(admin sarama.ClusterAdmin, topic string) {
	small, bad := "2000", "1"
	changes := map[string]sarama.IncrementalAlterConfigsEntry{
		"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &small},
		"retention.ms":      {Operation: sarama.IncrementalAlterConfigsOperationDelete},
	}
	must(admin.IncrementalAlterConfig(sarama.TopicResource, topic, changes, false), "alter configs")
	err := admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"no.such.config": &bad}, false)
	check(err != nil && strings.Contains(err.Error(), "no.such.config"), "an unknown config: %v", err)
	eventually("the altered configs", func() bool {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
		must(err, "describe configs")
		values := map[string]string{}
		for _, entry := range entries {
			values[entry.Name] = entry.Value
		}
		return values["max.message.bytes"] == small && values["retention.ms"] == "604800000" && len(values) >= 30
	})
}

func saramaOffsets(admin sarama.ClusterAdmin, bootstrap, topic string, version sarama.KafkaVersion) {
	config := saramaConfig(version)
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	must(err, "open a producer")
	defer producer.Close()
	for range 10 {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("value")})
		must(err, "produce")
	}
	_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(make([]byte, 5000))})
	check(errors.Is(err, sarama.ErrMessageSizeTooLarge), "too large: %v", err)
	must(admin.DeleteRecords(topic, map[int32]int64{0: 4}), "delete records")
	client, err := sarama.NewClient([]string{bootstrap}, config)
	must(err, "open a client")
	defer client.Close()
	start, err := client.GetOffset(topic, 0, sarama.OffsetOldest)
	must(err, "start offset")
	end, err := client.GetOffset(topic, 0, sarama.OffsetNewest)
	must(err, "end offset")
	check(start == 4 && end == 10, "offsets after the delete: %d to %d", start, end)
}
