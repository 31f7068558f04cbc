// Command interop is the Go side of asynqpy's interoperability tests: a client, a worker and an
// inspector on github.com/hibiken/asynq, driven from Python.
//
//	interop enqueue -type ok:x [-payload base64] [-queue q] ...
//	interop work -queues default:1 -concurrency 10 ...
//	interop inspect -do task -queue q -id id
//	interop chaos config.json
//
// Answers are JSON on stdout, one object per line. What goes wrong is told on stderr, with status 1.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"

	"github.com/hibiken/asynq"
)

var commands = map[string]func(args []string) error{
	"enqueue": enqueue,
	"work":    work,
	"inspect": inspect,
	"chaos":   chaos,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: interop enqueue|work|inspect|chaos [flags]"))
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// newFlags returns a flag set with the one flag that all subcommands share.
func newFlags(name string) (*flag.FlagSet, *redisFlag) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	redis := &redisFlag{asynq.RedisClientOpt{Addr: "127.0.0.1:6379"}}
	flags.Var(redis, "redis", "`URL` of the Redis server, its sentinels or the nodes of a cluster")
	return flags, redis
}

type redisFlag struct{ asynq.RedisConnOpt }

func (r *redisFlag) String() string { return "" }

func (r *redisFlag) Set(url string) (err error) {
	r.RedisConnOpt, err = parseRedis(url)
	return err
}

var stdout = struct {
	sync.Mutex
	*json.Encoder
}{Encoder: json.NewEncoder(os.Stdout)}

// answer writes one line of JSON. The worker calls it from many goroutines.
func answer(v any) {
	stdout.Lock()
	defer stdout.Unlock()
	if err := stdout.Encode(v); err != nil {
		fail(err)
	}
}
