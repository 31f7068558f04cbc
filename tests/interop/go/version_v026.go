//go:build !asynq024

package main

import (
	"time"

	"github.com/hibiken/asynq"
)

// What asynq 0.26 has and 0.24.1 lacks; version_v024.go is the other half.

func newTask(typename string, payload []byte, headers map[string]string) (*asynq.Task, error) {
	if headers == nil {
		return asynq.NewTask(typename, payload), nil
	}
	return asynq.NewTaskWithHeaders(typename, payload, headers), nil
}

func headersOf(t *asynq.TaskInfo) map[string]string { return t.Headers }

func headersOfTask(t *asynq.Task) map[string]string { return t.Headers() }

func setCheckInterval(config *asynq.Config, interval time.Duration) {
	config.TaskCheckInterval = interval
}

func setSentinelUsername(options *asynq.RedisFailoverClientOpt, username string) {
	options.SentinelUsername = username
}
