package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

// chaosConfig is what tests/chaos/worker.py reads too, from the same file. Options of asynqpy's
// Server beyond these have no counterpart here, or stay at asynq's defaults.
type chaosConfig struct {
	Redis           string         `json:"redis"`
	Folder          string         `json:"folder"`
	Concurrency     int            `json:"concurrency"`
	Queues          map[string]int `json:"queues"`
	ShutdownTimeout float64        `json:"shutdown_timeout"` // s
	RetryDelay      *float64       `json:"retry_delay"`      // s; asynq's default without it
}

// chaos runs a worker of tests/chaos until SIGTERM: the handlers of tests/chaos/handlers.py, and the
// same journal.
func chaos(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: interop chaos config.json")
	}
	config, err := readChaosConfig(args[0])
	if err != nil {
		return err
	}
	redis, err := parseRedis(config.Redis)
	if err != nil {
		return err
	}
	journal, err := openJournal(config.Folder)
	if err != nil {
		return err
	}
	server := asynq.NewServer(redis, config.server())
	if err := startPatiently(server, chaosHandlers(journal)); err != nil {
		return err
	}
	journal.write("ready", "-", "")
	waitForSignal()
	server.Shutdown()
	return nil
}

func readChaosConfig(path string) (config chaosConfig, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return config, err
	}
	return config, json.Unmarshal(text, &config)
}

func (c chaosConfig) server() asynq.Config {
	config := asynq.Config{
		Concurrency:     c.Concurrency,
		Queues:          c.Queues,
		LogLevel:        asynq.InfoLevel,
		ShutdownTimeout: time.Duration(c.ShutdownTimeout * float64(time.Second)),
	}
	if c.RetryDelay != nil {
		delay := time.Duration(*c.RetryDelay * float64(time.Second))
		config.RetryDelayFunc = func(int, error, *asynq.Task) time.Duration { return delay }
	}
	return config
}

// startPatiently tries for a while: asynq gives up at once when Redis is not there yet.
func startPatiently(server *asynq.Server, handler asynq.Handler) error {
	var err error
	for range 100 {
		if err = server.Start(handler); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// journal is that of tests/chaos/journal.py: a line is one write to a file opened with O_APPEND.
type journal struct {
	file *os.File
	pid  int
}

func openJournal(folder string) (*journal, error) {
	pid := os.Getpid()
	path := filepath.Join(folder, fmt.Sprintf("worker-%d.journal", pid))
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	return &journal{file, pid}, err
}

func (j *journal) write(kind, taskID, extra string) {
	line := fmt.Sprintf("%d %s %s %d %s\n", time.Now().UnixNano(), kind, taskID, j.pid, extra)
	if _, err := j.file.WriteString(line); err != nil {
		fail(err)
	}
}

// chaosHandlers maps the type of a task to what it does.
func chaosHandlers(j *journal) *asynq.ServeMux {
	mux := asynq.NewServeMux()
	mux.Use(j.journaling)
	mux.HandleFunc("sleep", chaosSleep)
	mux.HandleFunc("block", chaosBlock)
	mux.HandleFunc("fail", chaosFail)
	mux.HandleFunc("result", chaosResult)
	mux.HandleFunc("poison", j.poison)
	return mux
}

func (j *journal) journaling(next asynq.Handler) asynq.Handler {
	return asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		retried, _ := asynq.GetRetryCount(ctx)
		j.write("start", id, fmt.Sprint(retried))
		err := next.ProcessTask(ctx, task)
		j.write("end", id, fmt.Sprintf("%d %s", retried, outcomeOf(ctx, err)))
		return err
	})
}

func outcomeOf(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.DeadlineExceeded):
		return "cancelled:deadline"
	case ctx.Err() != nil:
		return "cancelled:lease-lost" // nothing else cancels: nobody asks for it here
	default:
		return "failed"
	}
}

// chaosPayload is that of tests/chaos/handlers.py.
type chaosPayload struct {
	MS    float64 `json:"ms"`
	Fails int     `json:"fails"`
}

func payloadOf(task *asynq.Task) (payload chaosPayload, err error) {
	return payload, json.Unmarshal(task.Payload(), &payload)
}

func (p chaosPayload) duration() time.Duration {
	return time.Duration(p.MS * float64(time.Millisecond))
}

func chaosSleep(ctx context.Context, task *asynq.Task) error {
	payload, err := payloadOf(task)
	if err != nil {
		return err
	}
	timer := time.NewTimer(payload.duration())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// chaosBlock looks at nothing meanwhile. There is no event loop that it could hold.
func chaosBlock(_ context.Context, task *asynq.Task) error {
	payload, err := payloadOf(task)
	time.Sleep(payload.duration())
	return err
}

func chaosFail(ctx context.Context, task *asynq.Task) error {
	if err := chaosSleep(ctx, task); err != nil {
		return err
	}
	payload, err := payloadOf(task)
	if retried, _ := asynq.GetRetryCount(ctx); retried < payload.Fails {
		return errOnPurpose
	}
	return err
}

func chaosResult(ctx context.Context, task *asynq.Task) error {
	if err := chaosSleep(ctx, task); err != nil {
		return err
	}
	_, err := task.ResultWriter().Write([]byte(task.ResultWriter().TaskID()))
	return err
}

// poison takes its process down with it.
func (j *journal) poison(ctx context.Context, task *asynq.Task) error {
	if err := chaosSleep(ctx, task); err != nil {
		return err
	}
	j.write("fault", "-", "poison")
	return syscall.Kill(j.pid, syscall.SIGKILL)
}
