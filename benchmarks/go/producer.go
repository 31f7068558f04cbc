package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

// How many goroutines enqueue at once in the mode "concurrent".
const goroutines = 50

func produce(redis asynq.RedisConnOpt, mode string) {
	client := asynq.NewClient(redis)
	defer client.Close()
	if err := client.Ping(); err != nil { // the connection is open before the time runs
		fail(err)
	}
	switch mode {
	case "sequential":
		enqueueTimed(client, number(4), 1)
	case "concurrent", "fill":
		warm(client)
		enqueueTimed(client, number(4), goroutines)
	case "paced":
		enqueuePaced(client, number(4), number(5))
	case "single":
		enqueueOnDemand(client)
	default:
		fmt.Fprintln(os.Stderr, "asynq 0.26 has no such way:", mode)
		os.Exit(noSuchMode)
	}
}

// warm opens the connections that so many goroutines use: as many as the client's pool allows, by default ten for a core.
func warm(client *asynq.Client) {
	var group sync.WaitGroup
	group.Add(goroutines)
	for range goroutines {
		go func() {
			defer group.Done()
			if err := client.Ping(); err != nil {
				fail(err)
			}
		}()
	}
	group.Wait()
}

// enqueueTimed enqueues so many tasks with so many goroutines, and prints how long that took.
func enqueueTimed(client *asynq.Client, tasks, producers int) {
	var taken atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	group.Add(producers)
	for range producers {
		go func() {
			defer group.Done()
			for n := taken.Add(1); n <= int64(tasks); n = taken.Add(1) {
				send(client, map[string]int64{"n": n})
			}
		}()
	}
	group.Wait()
	saySeconds(time.Since(start))
}

// enqueuePaced is an open loop: each task is sent when its time has come, however long the others take.
func enqueuePaced(client *asynq.Client, rate, seconds int) {
	start := time.Now().Add(100 * time.Millisecond)
	var group sync.WaitGroup
	for n := range rate * seconds {
		due := start.Add(time.Duration(n) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		group.Add(1)
		go func() {
			defer group.Done()
			send(client, timed{due.UnixNano()})
		}()
	}
	group.Wait()
}

// enqueueOnDemand enqueues a task for each line of stdin.
func enqueueOnDemand(client *asynq.Client) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		send(client, timed{time.Now().UnixNano()})
		fmt.Println("sent")
	}
}

func send(client *asynq.Client, payload any) {
	encoded, err := json.Marshal(payload)
	if err != nil {
		fail(err)
	}
	if _, err := client.Enqueue(asynq.NewTask("noop", encoded)); err != nil {
		fail(err)
	}
}
