//go:build asynq024

package main

import (
	"errors"
	"time"

	"github.com/hibiken/asynq"
)

// The 0.24.1 half of version_v026.go: no headers, idle workers always poll each second, and sentinels
// know passwords only.

func newTask(typename string, payload []byte, headers map[string]string) (*asynq.Task, error) {
	if headers != nil {
		return nil, errors.New("asynq 0.24.1 has no task headers")
	}
	return asynq.NewTask(typename, payload), nil
}

func headersOf(*asynq.TaskInfo) map[string]string { return nil }

func headersOfTask(*asynq.Task) map[string]string { return nil }

func setCheckInterval(*asynq.Config, time.Duration) {}

func setSentinelUsername(*asynq.RedisFailoverClientOpt, string) {}
