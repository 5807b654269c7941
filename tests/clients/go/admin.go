package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func admin(ctx context.Context, bootstrap string) {
	client := client(bootstrap, kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer client.Close()
	admin := kadm.NewClient(client)
	topic := unique("go-admin")
	hour := "3600000"
	created, err := admin.CreateTopic(ctx, 3, replicas(), map[string]*string{"retention.ms": &hour}, topic)
	must(err, "create")
	check(created.ID != kadm.TopicID{}, "the answer has the topic's id")
	check(*created.Configs["retention.ms"].Value == hour, "the answer has the configs")
	refusals(ctx, admin, topic)
	listed, err := admin.ListTopics(ctx, topic)
	must(err, "list")
	check(len(listed[topic].Partitions) == 3 && listed[topic].ID == created.ID, "the topic is listed")
	grown, err := admin.CreatePartitions(ctx, 2, topic)
	must(err, "create partitions")
	must(grown.Error(), "create partitions")
	eventually("five partitions", func() bool {
		listed, err := admin.ListTopics(ctx, topic)
		return err == nil && len(listed[topic].Partitions) == 5
	})
	step("create, list, create partitions")
	configs(ctx, admin, topic)
	offsets(ctx, client, admin, topic)
	cluster, err := admin.BrokerMetadata(ctx)
	must(err, "metadata")
	check(len(cluster.Brokers) >= 1 && cluster.Cluster != "", "the cluster is described")
	deleted, err := admin.DeleteTopics(ctx, topic)
	must(err, "delete")
	must(deleted.Error(), "delete")
	eventually("the topic is gone", func() bool {
		listed, err := admin.ListTopics(ctx)
		return err == nil && !listed.Has(topic)
	})
	step("delete")
}

func refusals(ctx context.Context, admin *kadm.Client, topic string) {
	no := "1"
	expect := func(name string, partitions int32, replicas int16, configs map[string]*string, wanted error) {
		_, err := admin.CreateTopic(ctx, partitions, replicas, configs, name)
		check(errors.Is(err, wanted), "create %s: %v instead of %v", name, err, wanted)
	}
	expect(topic, 1, 1, nil, kerr.TopicAlreadyExists)
	expect("..", 1, 1, nil, kerr.InvalidTopicException)
	expect("go-bad", 0, 1, nil, kerr.InvalidPartitions)
	expect("go-bad", 1, 100, nil, kerr.InvalidReplicationFactor)
	expect("go-bad", 1, 1, map[string]*string{"no.such.config": &no}, kerr.InvalidConfig)
	step("refusals")
}

func configs(ctx context.Context, admin *kadm.Client, topic string) {
	small := "2000"
	changes := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &small}, {Op: kadm.DeleteConfig, Name: "retention.ms"}}
	answers, err := admin.AlterTopicConfigs(ctx, changes, topic)
	must(err, "alter configs")
	must(answers[0].Err, "alter configs")
	eventually("the altered configs", func() bool {
		described, err := admin.DescribeTopicConfigs(ctx, topic)
		must(err, "describe configs")
		values := map[string]string{}
		for _, config := range described[0].Configs {
			values[config.Key] = config.MaybeValue()
		}
		return values["max.message.bytes"] == small && values["retention.ms"] == "604800000" && len(values) >= 30
	})
	cluster, err := admin.BrokerMetadata(ctx)
	must(err, "metadata")
	brokers, err := admin.DescribeBrokerConfigs(ctx, cluster.Brokers.NodeIDs()[0])
	must(err, "describe broker configs")
	check(len(brokers) >= 1 && len(brokers[0].Configs) > 200, "broker configs are listed")
	step("configs")
}

func offsets(ctx context.Context, client *kgo.Client, admin *kadm.Client, topic string) {
	for n := range 10 {
		must(client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", n)}).FirstErr(), "produce")
	}
	err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: make([]byte, 5000)}).FirstErr()
	check(errors.Is(err, kerr.MessageTooLarge), "too large: %v", err)
	trim := kadm.Offsets{}
	trim.AddOffset(topic, 0, 4, -1)
	_, err = admin.DeleteRecords(ctx, trim)
	must(err, "delete records")
	start, err := admin.ListStartOffsets(ctx, topic)
	must(err, "start offsets")
	end, err := admin.ListEndOffsets(ctx, topic)
	must(err, "end offsets")
	largest, err := admin.ListMaxTimestampOffsets(ctx, topic)
	must(err, "offsets of the largest timestamp")
	check(start[topic][0].Offset == 4 && end[topic][0].Offset == 10, "offsets after the delete")
	check(largest[topic][0].Offset >= 4, "offset of the largest timestamp: %d", largest[topic][0].Offset)
	step("too large, delete records, offsets")
}
