package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// saramaMember is a group member that reads, marks and commits until it leaves.
type saramaMember struct {
	group   sarama.ConsumerGroup
	cancel  context.CancelFunc
	done    chan struct{}
	mutex   sync.Mutex
	owned   int
	records []*sarama.ConsumerMessage
}

func saramaJoin(ctx context.Context, bootstrap, topic, group string, config *sarama.Config) *saramaMember {
	var opened sarama.ConsumerGroup
	insist("open a member", func() (err error) {
		opened, err = sarama.NewConsumerGroup([]string{bootstrap}, group, config)
		return err
	})
	ctx, cancel := context.WithCancel(ctx)
	m := &saramaMember{group: opened, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			err := opened.Consume(ctx, []string{topic}, m)
			if errors.Is(err, sarama.ErrClosedConsumerGroup) {
				return
			}
			if err != nil {
				// A coordinator that went away or moved: sarama leaves the next attempt to its caller.
				fmt.Println("consume:", err)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	go func() {
		for err := range opened.Errors() {
			fmt.Println("a member:", err)
		}
	}()
	return m
}

// Setup is called with each new assignment.
func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	m.own(session.Claims())
	return nil
}

// Cleanup is called before an assignment is given up.
func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error {
	m.own(nil)
	return nil
}

func (m *saramaMember) own(claims map[string][]int32) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.owned = 0
	for _, partitions := range claims {
		m.owned += len(partitions)
	}
}

// ConsumeClaim reads one partition.
func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			m.mutex.Lock()
			m.records = append(m.records, message)
			m.mutex.Unlock()
			session.MarkMessage(message, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *saramaMember) partitions() int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.owned
}

func (m *saramaMember) read() []*sarama.ConsumerMessage {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.records
}

func (m *saramaMember) leave() {
	m.cancel()
	<-m.done
	// With its coordinator away, the last commit and the goodbye may be lost.
	err := m.group.Close()
	check(err == nil || isCluster(), "leave: %v", err)
}

func saramaGroupConfig(version sarama.KafkaVersion, strategy sarama.BalanceStrategy) *sarama.Config {
	config := saramaConfig(version)
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	return config
}

func saramaGroups(ctx context.Context, bootstrap string) {
	config := saramaConfig(sarama.DefaultVersion)
	topic := unique("sarama-group")
	admin := saramaFourPartitions(bootstrap, topic, config)
	defer admin.Close()
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	must(err, "open a producer")
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for n := range 400 {
		messages = append(messages, &sarama.ProducerMessage{Topic: topic, Partition: int32(n % 4), Value: sarama.StringEncoder(fmt.Sprint(n))})
	}
	must(producer.SendMessages(messages), "produce")
	strategies := []sarama.BalanceStrategy{
		sarama.NewBalanceStrategyRange(), sarama.NewBalanceStrategyRoundRobin(), sarama.NewBalanceStrategySticky(),
	}
	for _, version := range saramaVersions {
		for _, strategy := range strategies {
			group := unique("sarama-group")
			saramaRebalance(ctx, bootstrap, topic, group, saramaGroupConfig(version, strategy))
			saramaCommitted(admin, topic, group, 100)
			step(fmt.Sprintf("group with %s as of %s", strategy.Name(), version))
		}
	}
	saramaStatic(ctx, bootstrap, topic, admin)
	saramaResume(ctx, bootstrap, topic, producer, admin)
}

func saramaRebalance(ctx context.Context, bootstrap, topic, group string, config *sarama.Config) {
	first := saramaJoin(ctx, bootstrap, topic, group, config)
	eventually("one member reads all", func() bool { return first.partitions() == 4 && len(first.read()) == 400 })
	second := saramaJoin(ctx, bootstrap, topic, group, config)
	eventually("a second member takes half", func() bool { return first.partitions() == 2 && second.partitions() == 2 })
	second.leave()
	eventually("the partitions come back", func() bool { return first.partitions() == 4 })
	first.leave()
	again := len(first.read()) + len(second.read()) - 400
	check(again == 0 || isCluster(), "%d records were read again, though committed", again)
}

func saramaCommitted(admin sarama.ClusterAdmin, topic, group string, wanted int64) {
	var committed *sarama.OffsetFetchResponse
	insist("fetch offsets", func() (err error) {
		committed, err = admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0, 1, 2, 3}})
		return err
	})
	for partition := range int32(4) {
		block := committed.GetBlock(topic, partition)
		check(block != nil && block.Err == sarama.ErrNoError, "partition %d: %+v", partition, block)
		check(block.Offset == wanted || isCluster() && block.Offset < wanted, "partition %d is committed at %d", partition, block.Offset)
	}
}

func saramaStatic(ctx context.Context, bootstrap, topic string, admin sarama.ClusterAdmin) {
	group := unique("sarama-static")
	config := saramaGroupConfig(sarama.DefaultVersion, sarama.NewBalanceStrategyRange())
	config.Consumer.Group.InstanceId = "one"
	for range 2 {
		one := saramaJoin(ctx, bootstrap, topic, group, config)
		eventually("a static member joins", func() bool { return one.partitions() == 4 })
		one.leave()
		var described []*sarama.GroupDescription
		insist("describe", func() (err error) {
			described, err = admin.DescribeConsumerGroups([]string{group})
			return err
		})
		check(len(described[0].Members) == 1, "a static member stays when its client closes")
	}
	var left *sarama.LeaveGroupResponse
	insist("remove the static member", func() (err error) {
		left, err = admin.RemoveMemberFromConsumerGroup(group, []string{"one"})
		return err
	})
	check(left.Err == sarama.ErrNoError && left.Members[0].Err == sarama.ErrNoError, "removed: %+v", left)
	step("static member")
}

func saramaResume(ctx context.Context, bootstrap, topic string, producer sarama.SyncProducer, admin sarama.ClusterAdmin) {
	group := unique("sarama-resume")
	config := saramaGroupConfig(sarama.MaxVersion, sarama.NewBalanceStrategySticky())
	one := saramaJoin(ctx, bootstrap, topic, group, config)
	eventually("all is read", func() bool { return len(one.read()) == 400 })
	one.leave()
	insist("produce", func() error {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Partition: 2, Value: sarama.StringEncoder("after")})
		return err
	})
	again := saramaJoin(ctx, bootstrap, topic, group, config)
	eventually("the group resumes", func() bool { return len(again.read()) > 0 })
	record := again.read()[0]
	check(record.Partition == 2 && record.Offset == 100 || isCluster(), "resumed at %d/%d", record.Partition, record.Offset)
	again.leave()
	insist("delete a committed offset", func() error { return admin.DeleteConsumerGroupOffset(group, topic, 0) })
	listed := saramaList(admin)
	check(listed[group] == "consumer", "the group is listed: %q", listed[group])
	insist("delete the group", func() error {
		err := admin.DeleteConsumerGroup(group)
		if isCluster() && errors.Is(err, sarama.ErrGroupIDNotFound) {
			return nil
		}
		return err
	})
	_, there := saramaList(admin)[group]
	check(!there, "the group is deleted")
	step("resume, list, delete")
}

func saramaList(admin sarama.ClusterAdmin) (listed map[string]string) {
	insist("list groups", func() (err error) {
		listed, err = admin.ListConsumerGroups()
		return err
	})
	return listed
}
