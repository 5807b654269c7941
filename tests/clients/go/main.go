// Command clients runs franz-go and sarama against a broker: `clients SCENARIO HOST:PORT`. It leaves with 0 only when every check of
// the scenario held.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	scenarios := map[string]func(context.Context, string){
		"roundtrip":        roundtrip,
		"groups":           groups,
		"admin":            admin,
		"sarama-roundtrip": saramaRoundtrip,
		"sarama-groups":    saramaGroups,
		"sarama-admin":     saramaAdmin,
	}
	name, bootstrap := os.Args[1], os.Args[2]
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	scenarios[name](ctx, bootstrap)
	fmt.Println("passed", name)
}

// client opens a client with the given options; the caller closes it.
func client(bootstrap string, options ...kgo.Opt) *kgo.Client {
	opened, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation()}, options...)...)
	must(err, "open a client")
	return opened
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func check(condition bool, format string, arguments ...any) {
	if !condition {
		fail(format, arguments...)
	}
}

func fail(format string, arguments ...any) {
	fmt.Printf("FAILED "+format+"\n", arguments...)
	os.Exit(1)
}

// replicas is how many replicas topics are made with: of a cluster the suite is told.
func replicas() int16 {
	if text := os.Getenv("CHRONIK_TEST_REPLICAS"); text != "" {
		count, err := strconv.ParseInt(text, 10, 16)
		must(err, "CHRONIK_TEST_REPLICAS")
		return int16(count)
	}
	return 1
}

func isCluster() bool { return replicas() > 1 }

// insist does what must succeed: at once, but in a cluster whose nodes are restarted a client that gives up is asked again.
func insist(what string, attempt func() error) {
	if !isCluster() {
		must(attempt(), what)
		return
	}
	eventually(what, func() bool {
		err := attempt()
		if err != nil {
			fmt.Printf("%s: %v\n", what, err)
		}
		return err == nil
	})
}

func step(text string) { fmt.Println("ok", text) }

func unique(prefix string) string {
	bytes := make([]byte, 6)
	_, err := rand.Read(bytes)
	must(err, "random")
	return prefix + "-" + hex.EncodeToString(bytes)
}

// eventually calls probe until it is true, for at most 90 s.
func eventually(what string, probe func() bool) {
	deadline := time.Now().Add(90 * time.Second)
	for !probe() {
		check(time.Now().Before(deadline), "not within 90 s: %s", what)
		time.Sleep(50 * time.Millisecond)
	}
}
