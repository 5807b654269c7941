package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
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
	_, err := admin.CreateTopic(ctx, 4, 1, nil, topic)
	must(err, "create the topic")
	for n := range 400 {
		record := &kgo.Record{Topic: topic, Partition: int32(n % 4), Value: fmt.Appendf(nil, "%d", n)}
		producer.Produce(ctx, record, func(_ *kgo.Record, err error) { must(err, "produce") })
	}
	must(producer.Flush(ctx), "flush")
	for _, balancer := range []kgo.GroupBalancer{kgo.RangeBalancer(), kgo.CooperativeStickyBalancer()} {
		group := unique("go-group")
		rebalance(ctx, bootstrap, topic, group, kgo.Balancers(balancer))
		committed, err := admin.FetchOffsets(ctx, group)
		must(err, "fetch offsets")
		for partition := range int32(4) {
			offset, _ := committed.Lookup(topic, partition)
			check(offset.At == 100, "partition %d committed at %d", partition, offset.At)
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
		described, err := admin.DescribeGroups(ctx, group)
		must(err, "describe")
		check(len(described[group].Members) == 1, "a static member stays when its client closes")
	}
	_, err := admin.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs("one"))
	must(err, "remove the static member")
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
	check(record.Partition == 2 && record.Offset == 100, "resumed at %d/%d", record.Partition, record.Offset)
	again.leave()
	lag, err := admin.Lag(ctx, group)
	must(err, "lag")
	described := lag[group]
	check(described.Lag.Total() == 0, "lag is %d", described.Lag.Total())
	_, err = admin.DeleteGroup(ctx, group)
	must(err, "delete the group")
	listed, err := admin.ListGroups(ctx)
	must(err, "list groups")
	_, there := listed[group]
	check(!there, "the group is deleted")
	step("resume, lag, delete")
}
