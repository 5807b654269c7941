// Command clients runs franz-go against a broker: `clients SCENARIO HOST:PORT`. It leaves with 0 only when every check of
// the scenario held.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	scenarios := map[string]func(context.Context, string){
		"roundtrip": roundtrip,
		"groups":    groups,
		"admin":     admin,
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
