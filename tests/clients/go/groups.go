package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// member is a group member that polls and commits until closed.
type member struct {
	client    *kgo.Client
	done      chan struct{}
	mutex     sync.Mutex
	records   []*kgo.Record
	committed int
	owned     map[int32]bool
}

func join(ctx context.Context, bootstrap, topic, group string, options ...kgo.Opt) *member {
	m := &member{done: make(chan struct{}), owned: map[int32]bool{}}
	change := func(owned bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			m.mutex.Lock()
			defer m.mutex.Unlock()
			for _, partition := range partitions[topic] {
				if owned {
					m.owned[partition] = true
				} else {
					delete(m.owned, partition)
				}
			}
		}
	}
	m.client = client(bootstrap, append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(500 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	}, options...)...)
	go m.work(ctx)
	return m
}

func (m *member) work(ctx context.Context) {
	defer close(m.done)
	for {
		fetches := m.client.PollFetches(ctx)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		records := fetches.Records()
		err := m.client.CommitRecords(ctx, records...)
		m.mutex.Lock()
		m.records = append(m.records, records...)
		if err == nil {
			m.committed = len(m.records)
		}
		m.mutex.Unlock()
	}
}

func (m *member) partitions() int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return len(m.owned)
}

func (m *member) read() []*kgo.Record {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.records[:m.committed]
}

func (m *member) leave() {
	m.client.Close()
	<-m.done
}

func groups(ctx context.Context, bootstrap string) {
	topic := unique("go-group")
	producer := client(bootstrap, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	admin := kadm.NewClient(producer)
	insist("create the topic", func() error {
		_, err := admin.CreateTopic(ctx, 4, replicas(), nil, topic)
		if isCluster() && errors.Is(err, kerr.TopicAlreadyExists) {
			return nil
		}
		return err
	})
	for n := range 400 {
		record := &kgo.Record{Topic: topic, Partition: int32(n % 4), Value: fmt.Appendf(nil, "%d", n)}
		producer.Produce(ctx, record, func(_ *kgo.Record, err error) { must(err, "produce") })
	}
	must(producer.Flush(ctx), "flush")
	for _, balancer := range []kgo.GroupBalancer{kgo.RangeBalancer(), kgo.CooperativeStickyBalancer()} {
		group := unique("go-group")
		rebalance(ctx, bootstrap, topic, group, kgo.Balancers(balancer))
		var committed kadm.OffsetResponses
		insist("fetch offsets", func() (err error) {
			committed, err = admin.FetchOffsets(ctx, group)
			return err
		})
		for partition := range int32(4) {
			offset, _ := committed.Lookup(topic, partition)
			check(offset.At == 100 || isCluster() && offset.At < 100, "partition %d committed at %d", partition, offset.At)
		}
		static(ctx, bootstrap, topic, group, admin, kgo.Balancers(balancer))
		step("group with " + balancer.ProtocolName())
	}
	resume(ctx, bootstrap, topic, producer, admin)
}

func rebalance(ctx context.Context, bootstrap, topic, group string, options ...kgo.Opt) {
	first := join(ctx, bootstrap, topic, group, options...)
	eventually("one member reads all", func() bool { return first.partitions() == 4 && len(first.read()) == 400 })
	second := join(ctx, bootstrap, topic, group, options...)
	eventually("a second member takes half", func() bool { return first.partitions() == 2 && second.partitions() == 2 })
	second.leave()
	eventually("the partitions come back", func() bool { return first.partitions() == 4 })
	first.leave()
}

func static(ctx context.Context, bootstrap, topic, group string, admin *kadm.Client, options ...kgo.Opt) {
	options = append(options, kgo.InstanceID("one"))
	for range 2 {
		one := join(ctx, bootstrap, topic, group, options...)
		eventually("a static member joins", func() bool { return one.partitions() == 4 })
		one.leave()
		var described kadm.DescribedGroups
		insist("describe", func() (err error) {
			described, err = admin.DescribeGroups(ctx, group)
			if err == nil {
				err = described.Error()
			}
			return err
		})
		check(len(described[group].Members) == 1, "a static member stays when its client closes")
	}
	insist("remove the static member", func() error {
		_, err := admin.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs("one"))
		return err
	})
}

func resume(ctx context.Context, bootstrap, topic string, producer *kgo.Client, admin *kadm.Client) {
	group := unique("go-resume")
	one := join(ctx, bootstrap, topic, group)
	eventually("all is read", func() bool { return len(one.read()) == 400 })
	one.leave()
	must(producer.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: 2, Value: []byte("after")}).FirstErr(), "produce")
	again := join(ctx, bootstrap, topic, group)
	eventually("the group resumes", func() bool { return len(again.read()) > 0 })
	record := again.read()[0]
	check(record.Partition == 2 && record.Offset == 100 || isCluster(), "resumed at %d/%d", record.Partition, record.Offset)
	again.leave()
	insist("lag", func() error {
		lag, err := admin.Lag(ctx, group)
		if err == nil {
			err = lag.Error()
		}
		total := lag[group].Lag.Total()
		check(err != nil || total == 0 || isCluster(), "lag is %d", total)
		return err
	})
	insist("delete the group", func() error {
		_, err := admin.DeleteGroup(ctx, group)
		if isCluster() && errors.Is(err, kerr.GroupIDNotFound) {
			return nil
		}
		return err
	})
	var listed kadm.ListedGroups
	insist("list groups", func() (err error) {
		listed, err = admin.ListGroups(ctx)
		return err
	})
	_, there := listed[group]
	check(!there, "the group is deleted")
	step("resume, lag, delete")
}
