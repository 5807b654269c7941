package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sampleRecords are records of all shapes: no key, no value, empty ones, headers, 1 B to 300 KiB.
func sampleRecords(topic string) []*kgo.Record {
	records := []*kgo.Record{
		{Value: []byte("no key")},
		{Key: []byte("key")},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("headers"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			{Key: "one", Value: []byte("1")}, {Key: "one", Value: []byte("again")}, {Key: "null"},
		}},
		{Key: []byte("large"), Value: []byte(strings.Repeat("chronik ", 40_000))},
	}
	for n := range 200 {
		records = append(records, &kgo.Record{Key: fmt.Appendf(nil, "k%d", n), Value: fmt.Appendf(nil, "value %d", n)})
	}
	for _, record := range records {
		record.Topic = topic
	}
	return records
}

func roundtrip(ctx context.Context, bootstrap string) {
	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()},
		{"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()},
	}
	for _, c := range codecs {
		topic := unique("go-round")
		produceAndRead(ctx, bootstrap, topic, kgo.ProducerBatchCompression(c.codec))
		step("idempotent round trip with " + c.name)
	}
	produceAndRead(ctx, bootstrap, unique("go-plain"), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	step("round trip with acks=1, not idempotent")
	byTime(ctx, bootstrap)
}

func produceAndRead(ctx context.Context, bootstrap, topic string, options ...kgo.Opt) {
	options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	producer := client(bootstrap, options...)
	defer producer.Close()
	sent := sampleRecords(topic)
	must(producer.ProduceSync(ctx, sent...).FirstErr(), "produce")
	for n, record := range sent {
		check(record.Offset == int64(n), "record %d got offset %d", n, record.Offset)
	}
	got := readAll(ctx, bootstrap, topic, len(sent))
	for n, record := range got {
		want := sent[n]
		check(record.Offset == int64(n), "offset %d at place %d", record.Offset, n)
		check((record.Key == nil) == (want.Key == nil) && bytes.Equal(record.Key, want.Key), "key of %d", n)
		check((record.Value == nil) == (want.Value == nil) && bytes.Equal(record.Value, want.Value), "value of %d", n)
		check(len(record.Headers) == len(want.Headers), "headers of %d", n)
		for h, header := range record.Headers {
			check(header.Key == want.Headers[h].Key && bytes.Equal(header.Value, want.Headers[h].Value), "header of %d", n)
		}
	}
}

// readAll reads the first count records of partition 0.
func readAll(ctx context.Context, bootstrap, topic string, count int) []*kgo.Record {
	start := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}
	return readFrom(ctx, bootstrap, start, count)
}

func readFrom(ctx context.Context, bootstrap string, start map[string]map[int32]kgo.Offset, count int) []*kgo.Record {
	consumer := client(bootstrap, kgo.ConsumePartitions(start))
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := consumer.PollFetches(ctx)
		must(fetches.Err(), "fetch")
		records = append(records, fetches.Records()...)
	}
	check(len(records) == count, "%d records instead of %d", len(records), count)
	return records
}

func byTime(ctx context.Context, bootstrap string) {
	topic := unique("go-time")
	producer := client(bootstrap, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	for n := range 10 {
		record := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", n), Timestamp: start.Add(time.Duration(n) * time.Second)}
		must(producer.ProduceSync(ctx, record).FirstErr(), "produce")
	}
	at := kgo.NewOffset().AfterMilli(start.Add(4500 * time.Millisecond).UnixMilli())
	records := readFrom(ctx, bootstrap, map[string]map[int32]kgo.Offset{topic: {0: at}}, 5)
	check(records[0].Offset == 5, "by time begins at %d", records[0].Offset)
	step("reading from a time")
}
