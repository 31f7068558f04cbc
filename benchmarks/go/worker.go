package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

// What a task of the latency workload carries: when it was meant to be sent, unix ns.
type timed struct {
	Time int64 `json:"t"`
}

// tally counts tasks and keeps the time of the first and the last.
type tally struct {
	tasks          int64
	started, ended atomic.Int64
	first, last    time.Time
	done           chan struct{}
	mutex          sync.Mutex
	latencies      []float64
}

func (t *tally) start() {
	if t.started.Add(1) == 1 {
		t.first = time.Now()
	}
}

func (t *tally) end() {
	if t.ended.Add(1) == t.tasks {
		t.last = time.Now()
		close(t.done)
	}
}

func work(redis asynq.RedisConnOpt, workload string, concurrency, tasks int) {
	counted := &tally{tasks: int64(tasks), done: make(chan struct{})}
	server := asynq.NewServer(redis, asynq.Config{
		Concurrency: concurrency,
		Queues:      queues(),
		LogLevel:    asynq.FatalLevel,
	})
	if err := server.Start(handler(workload, counted)); err != nil {
		fail(err)
	}
	sayReady()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-counted.done:
		report(counted)
	case <-asked:
	}
	server.Shutdown()
}

// queues answers those of BENCH_QUEUES, or nil for "default" alone.
func queues() map[string]int {
	count := variable("BENCH_QUEUES", 1)
	if count == 1 {
		return nil
	}
	found := make(map[string]int, count)
	for n := range count {
		found["q"+strconv.Itoa(n)] = 1
	}
	return found
}

func handler(workload string, counted *tally) asynq.HandlerFunc {
	kind, argument, _ := strings.Cut(workload, ":")
	size, _ := strconv.Atoi(argument)
	body := map[string]func(*asynq.Task) error{
		"noop":    func(*asynq.Task) error { return nil },
		"sleep":   func(*asynq.Task) error { time.Sleep(time.Duration(size) * time.Millisecond); return nil },
		"cpu":     func(*asynq.Task) error { hash(size); return nil },
		"latency": counted.measure,
	}[kind]
	if body == nil {
		fail(fmt.Errorf("no such workload: %s", workload))
	}
	return func(_ context.Context, task *asynq.Task) error {
		counted.start()
		defer counted.end()
		return body(task)
	}
}

func (t *tally) measure(task *asynq.Task) error {
	now := time.Now().UnixNano()
	var sent timed
	if err := json.Unmarshal(task.Payload(), &sent); err != nil {
		return err
	}
	t.mutex.Lock()
	t.latencies = append(t.latencies, float64(now-sent.Time)/1e6)
	t.mutex.Unlock()
	return nil
}

// hash is the CPU-bound workload: a chain of SHA-256.
func hash(iterations int) {
	block := make([]byte, 64)
	for range iterations {
		digest := sha256.Sum256(block)
		block = digest[:]
	}
}

func report(counted *tally) {
	answer := map[string]any{"seconds": counted.last.Sub(counted.first).Seconds()}
	if counted.latencies != nil {
		answer["latencies_ms"] = counted.latencies
	}
	line, _ := json.Marshal(answer)
	fmt.Println(string(line))
}
