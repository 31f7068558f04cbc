package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

// work runs a server until SIGTERM, or until stdin closes because whoever started it is gone.
func work(args []string) error {
	flags, redis := newFlags("work")
	config := configFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	server := asynq.NewServer(redis, *config)
	if err := server.Start(handlers()); err != nil {
		return err
	}
	answer(event{Event: "ready"})
	waitForEnd()
	server.Shutdown()
	answer(event{Event: "stopped"})
	return nil
}

func configFlags(flags *flag.FlagSet) *asynq.Config {
	config := &asynq.Config{
		Concurrency:              10,
		Queues:                   map[string]int{},
		LogLevel:                 asynq.WarnLevel,
		ErrorHandler:             asynq.ErrorHandlerFunc(tellError),
		DelayedTaskCheckInterval: time.Second,
	}
	setCheckInterval(config, 100*time.Millisecond)
	flags.IntVar(&config.Concurrency, "concurrency", config.Concurrency, "tasks at a time")
	flags.BoolVar(&config.StrictPriority, "strict", false, "strict priority")
	flags.DurationVar(&config.ShutdownTimeout, "shutdown-timeout", 0, "asynq's default if zero")
	flags.Func("queues", "`name:priority,…`", func(text string) error {
		return parseQueues(text, config.Queues)
	})
	flags.Func("retry-delay", "fixed delay before a retry", func(text string) error {
		delay, err := time.ParseDuration(text)
		config.RetryDelayFunc = func(int, error, *asynq.Task) time.Duration { return delay }
		return err
	})
	return config
}

func parseQueues(text string, queues map[string]int) error {
	for _, entry := range strings.Split(text, ",") {
		name, priority, _ := strings.Cut(entry, ":")
		n, err := strconv.Atoi(priority)
		if err != nil {
			return fmt.Errorf("priority of %q: %w", name, err)
		}
		queues[name] = n
	}
	return nil
}

func tellError(ctx context.Context, task *asynq.Task, err error) {
	told := eventOf(ctx, "error", task)
	told.Error = err.Error()
	answer(told)
}

func waitForEnd() {
	ctx, stop := untilSignal()
	defer stop()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	<-ctx.Done()
}

func waitForSignal() {
	ctx, stop := untilSignal()
	defer stop()
	<-ctx.Done()
}

func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}
