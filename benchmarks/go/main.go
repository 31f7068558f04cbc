// A no-op worker on Go's asynq: processes the tasks of queue "default" and prints the seconds from the first to the
// last of them.
//
//	worker <redis host:port> <concurrency> <tasks>
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

func main() {
	concurrency, _ := strconv.Atoi(os.Args[2])
	tasks, _ := strconv.ParseInt(os.Args[3], 10, 64)

	var started, ended atomic.Int64
	var first time.Time
	done := make(chan struct{})
	handler := asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if started.Add(1) == 1 {
			first = time.Now()
		}
		if ended.Add(1) == tasks {
			close(done)
		}
		return nil
	})

	server := asynq.NewServer(
		asynq.RedisClientOpt{Addr: os.Args[1]},
		asynq.Config{Concurrency: concurrency, LogLevel: asynq.FatalLevel},
	)
	if err := server.Start(handler); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-done
	fmt.Println(time.Since(first).Seconds())
	server.Shutdown()
}
