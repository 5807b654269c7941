package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// saramaVersions are the protocols that sarama is told to speak: the oldest with record batches, its default, its newest.
var saramaVersions = []sarama.KafkaVersion{sarama.V0_11_0_0, sarama.DefaultVersion, sarama.MaxVersion}

// saramaConfig is sarama's default but for the version and for what a check needs to see.
func saramaConfig(version sarama.KafkaVersion) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = version
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Return.Successes = true
	config.Consumer.Return.Errors = true
	if isCluster() {
		// Three times within 300 ms is what sarama does by itself.
		config.Producer.Retry.Max = 100
	}
	// Whoever closes a consumer waits for its last fetch.
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	return config
}

func saramaRoundtrip(_ context.Context, bootstrap string) {
	codecs := []sarama.CompressionCodec{
		sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD,
	}
	for _, version := range saramaVersions {
		for _, codec := range codecs {
			if codec == sarama.CompressionZSTD && !version.IsAtLeast(sarama.V2_1_0_0) {
				continue
			}
			config := saramaConfig(version)
			config.Producer.Compression = codec
			if !isCluster() {
				// Of a leader that goes away it would be told nothing, and send twice.
				saramaProduceAndRead(bootstrap, config)
			}
			config.Producer.Idempotent = true
			config.Net.MaxOpenRequests = 1
			saramaProduceAndRead(bootstrap, config)
			step(fmt.Sprintf("round trips with %s as of %s", codec, version))
		}
	}
	saramaAsync(bootstrap)
	saramaByTime(bootstrap)
	if isCluster() {
		return
	}
	config := saramaConfig(sarama.DefaultVersion)
	config.Producer.RequiredAcks = sarama.WaitForLocal
	saramaProduceAndRead(bootstrap, config)
	step("round trip with acks=1")
}

// saramaSamples are records of all shapes, as sampleRecords; sarama keeps no null header value apart from an empty one.
func saramaSamples(topic string) []*sarama.ProducerMessage {
	var messages []*sarama.ProducerMessage
	for _, record := range sampleRecords(topic) {
		message := &sarama.ProducerMessage{Topic: topic}
		if record.Key != nil {
			message.Key = sarama.ByteEncoder(record.Key)
		}
		if record.Value != nil {
			message.Value = sarama.ByteEncoder(record.Value)
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Key), Value: header.Value})
		}
		messages = append(messages, message)
	}
	return messages
}

func saramaProduceAndRead(bootstrap string, config *sarama.Config) {
	topic := unique("sarama-round")
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	must(err, "open a producer")
	defer producer.Close()
	sent := saramaSamples(topic)
	must(producer.SendMessages(sent), "produce")
	for n, message := range sent {
		check(message.Offset == int64(n), "record %d got offset %d", n, message.Offset)
	}
	for n, got := range saramaRead(bootstrap, config, topic, sarama.OffsetOldest, len(sent)) {
		want := sampleRecords(topic)[n]
		check(got.Offset == int64(n), "offset %d at place %d", got.Offset, n)
		check((got.Key == nil) == (want.Key == nil) && bytes.Equal(got.Key, want.Key), "key of %d", n)
		check((got.Value == nil) == (want.Value == nil) && bytes.Equal(got.Value, want.Value), "value of %d", n)
		check(len(got.Headers) == len(want.Headers), "headers of %d", n)
		for h, header := range got.Headers {
			check(string(header.Key) == want.Headers[h].Key && bytes.Equal(header.Value, want.Headers[h].Value), "header of %d", n)
		}
	}
}

// saramaRead reads count records of partition 0 from an offset on.
func saramaRead(bootstrap string, config *sarama.Config, topic string, from int64, count int) []*sarama.ConsumerMessage {
	consumer, err := sarama.NewConsumer([]string{bootstrap}, config)
	must(err, "open a consumer")
	defer consumer.Close()
	var partition sarama.PartitionConsumer
	insist("consume", func() (err error) {
		partition, err = consumer.ConsumePartition(topic, 0, from)
		return err
	})
	defer partition.Close()
	var messages []*sarama.ConsumerMessage
	var last error
	late := time.After(30 * time.Second)
	for len(messages) < count {
		select {
		case message := <-partition.Messages():
			messages = append(messages, message)
		case last = <-partition.Errors():
			// A broker that went away; sarama goes on by itself.
		case <-late:
			fail("%d of %d records came within 30 s; last error: %v", len(messages), count, last)
		}
	}
	check(partition.HighWaterMarkOffset() >= from+int64(count), "the high watermark is told")
	return messages
}

// saramaFourPartitions makes a topic; the caller closes the admin.
func saramaFourPartitions(bootstrap, topic string, config *sarama.Config) (admin sarama.ClusterAdmin) {
	insist("open an admin", func() (err error) {
		admin, err = sarama.NewClusterAdmin([]string{bootstrap}, config)
		return err
	})
	insist("create", func() error {
		detail := &sarama.TopicDetail{NumPartitions: 4, ReplicationFactor: replicas()}
		err := admin.CreateTopic(topic, detail, false)
		if isCluster() && errors.Is(err, sarama.ErrTopicAlreadyExists) {
			return nil
		}
		return err
	})
	return admin
}

func saramaOffset(client sarama.Client, topic string, partition int32, at int64) (offset int64) {
	insist("list offsets", func() (err error) {
		offset, err = client.GetOffset(topic, partition, at)
		return err
	})
	return offset
}

// saramaAsync sends as most services do: through the asynchronous producer, several requests under way, by the hash of the key.
func saramaAsync(bootstrap string) {
	const records = 20_000
	config := saramaConfig(sarama.DefaultVersion)
	config.Producer.Partitioner = sarama.NewHashPartitioner
	config.Producer.Flush.Messages = 100
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	topic := unique("sarama-async")
	admin := saramaFourPartitions(bootstrap, topic, config)
	defer admin.Close()
	producer, err := sarama.NewAsyncProducer([]string{bootstrap}, config)
	must(err, "open a producer")
	go func() {
		for n := range records {
			key, value := fmt.Sprintf("k%d", n%100), fmt.Sprintf("%d", n)
			producer.Input() <- &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(key), Value: sarama.StringEncoder(value)}
		}
		producer.AsyncClose()
	}()
	acknowledged, failed := 0, make(chan error, records)
	go func() {
		defer close(failed)
		for err := range producer.Errors() {
			failed <- err
		}
	}()
	for range producer.Successes() {
		acknowledged++
	}
	for err := range failed {
		must(err, "produce")
	}
	check(acknowledged == records, "%d acknowledged", acknowledged)
	client, err := sarama.NewClient([]string{bootstrap}, config)
	must(err, "open a client")
	defer client.Close()
	total := int64(0)
	for partition := range int32(4) {
		total += saramaOffset(client, topic, partition, sarama.OffsetNewest)
	}
	check(total == records || isCluster() && total > records, "%d records are there", total)
	step("asynchronous producer")
}

func saramaByTime(bootstrap string) {
	config := saramaConfig(sarama.DefaultVersion)
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	topic := unique("sarama-time")
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	must(err, "open a producer")
	defer producer.Close()
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	for n := range 10 {
		message := &sarama.ProducerMessage{
			Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(n)), Timestamp: start.Add(time.Duration(n) * time.Second),
		}
		_, _, err := producer.SendMessage(message)
		must(err, "produce")
	}
	client, err := sarama.NewClient([]string{bootstrap}, config)
	must(err, "open a client")
	defer client.Close()
	at := saramaOffset(client, topic, 0, start.Add(4500*time.Millisecond).UnixMilli())
	records := saramaRead(bootstrap, config, topic, at, 5)
	check(at == 5 && records[0].Timestamp.Equal(start.Add(5*time.Second)), "by time begins at %d, %s", at, records[0].Timestamp)
	step("reading from a time")
}
