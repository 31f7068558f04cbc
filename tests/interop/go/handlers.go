package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
)

// event is a line about the worker ("ready", "stopped") or about one task: "start" and "end" of its
// handler, "error" when asynq calls the error handler.
type event struct {
	Event    string            `json:"event"`
	ID       string            `json:"id,omitempty"`
	Type     string            `json:"type,omitempty"`
	Queue    string            `json:"queue,omitempty"`
	Payload  []byte            `json:"payload,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Retried  int               `json:"retried"`
	MaxRetry int               `json:"max_retry"`
	Deadline *time.Time        `json:"deadline,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func eventOf(ctx context.Context, name string, task *asynq.Task) event {
	e := event{
		Event:   name,
		Type:    task.Type(),
		Payload: task.Payload(),
		Headers: headersOfTask(task),
	}
	e.ID, _ = asynq.GetTaskID(ctx)
	e.Queue, _ = asynq.GetQueueName(ctx)
	e.Retried, _ = asynq.GetRetryCount(ctx)
	e.MaxRetry, _ = asynq.GetMaxRetry(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		e.Deadline = &deadline
	}
	return e
}

// handlers maps the prefix of a task's type to what becomes of the task.
func handlers() *asynq.ServeMux {
	mux := asynq.NewServeMux()
	mux.Use(tell)
	mux.HandleFunc("ok:", succeed)
	mux.HandleFunc("fail:", alwaysFail)
	mux.HandleFunc("failonce:", failOnce)
	mux.HandleFunc("skip:", skipRetry)
	mux.HandleFunc("result:", echoResult)
	mux.HandleFunc("result-later:", resultLater)
	mux.HandleFunc("sleep:", sleep)
	mux.HandleFunc("hang:", hang)
	mux.HandleFunc("hang-in-go:", hang)
	mux.HandleFunc("hang-in-python:", succeed)
	return mux
}

// tell reports the start and the end of every handler.
func tell(next asynq.Handler) asynq.Handler {
	return asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		answer(eventOf(ctx, "start", task))
		err := next.ProcessTask(ctx, task)
		end := eventOf(ctx, "end", task)
		if err != nil {
			end.Error = err.Error()
		}
		answer(end)
		return err
	})
}

var errOnPurpose = errors.New("failed on purpose: é")

func succeed(context.Context, *asynq.Task) error { return nil }

func alwaysFail(context.Context, *asynq.Task) error { return errOnPurpose }

func failOnce(ctx context.Context, _ *asynq.Task) error {
	if retried, _ := asynq.GetRetryCount(ctx); retried == 0 {
		return errOnPurpose
	}
	return nil
}

func skipRetry(context.Context, *asynq.Task) error {
	return fmt.Errorf("not worth a retry: %w", asynq.SkipRetry)
}

// echoResult writes the payload as the task's result.
func echoResult(_ context.Context, task *asynq.Task) error {
	_, err := task.ResultWriter().Write(task.Payload())
	return err
}

// resultLater writes the payload as the task's result after a while.
func resultLater(ctx context.Context, task *asynq.Task) error {
	time.Sleep(300 * time.Millisecond)
	return echoResult(ctx, task)
}

// sleep takes the payload as milliseconds.
func sleep(ctx context.Context, task *asynq.Task) error {
	ms, err := strconv.Atoi(string(task.Payload()))
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hang returns only when the task is cancelled or out of time.
func hang(ctx context.Context, _ *asynq.Task) error {
	<-ctx.Done()
	return ctx.Err()
}
