package main

import (
	"fmt"

	"github.com/hibiken/asynq"
)

// What asynq's Inspector does to all tasks of a state, or to a queue.

type onAll map[string]func(i *asynq.Inspector, t target) (int, error)

var runAll = onAll{
	"scheduled": func(i *asynq.Inspector, t target) (int, error) { return i.RunAllScheduledTasks(t.queue) },
	"retry":     func(i *asynq.Inspector, t target) (int, error) { return i.RunAllRetryTasks(t.queue) },
	"archived":  func(i *asynq.Inspector, t target) (int, error) { return i.RunAllArchivedTasks(t.queue) },
	"aggregating": func(i *asynq.Inspector, t target) (int, error) {
		return i.RunAllAggregatingTasks(t.queue, t.group)
	},
}

var archiveAll = onAll{
	"pending":   func(i *asynq.Inspector, t target) (int, error) { return i.ArchiveAllPendingTasks(t.queue) },
	"scheduled": func(i *asynq.Inspector, t target) (int, error) { return i.ArchiveAllScheduledTasks(t.queue) },
	"retry":     func(i *asynq.Inspector, t target) (int, error) { return i.ArchiveAllRetryTasks(t.queue) },
	"aggregating": func(i *asynq.Inspector, t target) (int, error) {
		return i.ArchiveAllAggregatingTasks(t.queue, t.group)
	},
}

var deleteAll = onAll{
	"pending":   func(i *asynq.Inspector, t target) (int, error) { return i.DeleteAllPendingTasks(t.queue) },
	"scheduled": func(i *asynq.Inspector, t target) (int, error) { return i.DeleteAllScheduledTasks(t.queue) },
	"retry":     func(i *asynq.Inspector, t target) (int, error) { return i.DeleteAllRetryTasks(t.queue) },
	"archived":  func(i *asynq.Inspector, t target) (int, error) { return i.DeleteAllArchivedTasks(t.queue) },
	"completed": func(i *asynq.Inspector, t target) (int, error) { return i.DeleteAllCompletedTasks(t.queue) },
	"aggregating": func(i *asynq.Inspector, t target) (int, error) {
		return i.DeleteAllAggregatingTasks(t.queue, t.group)
	},
}

// do acts on the state of the target, and answers how many tasks that were.
func (a onAll) do(i *asynq.Inspector, t target) error {
	act := a[t.state]
	if act == nil {
		return fmt.Errorf("asynq does not do that to %s tasks", t.state)
	}
	count, err := act(i, t)
	if err == nil {
		answer(map[string]int{"count": count})
	}
	return err
}

func removeQueue(force bool) func(*asynq.Inspector, target) error {
	return func(i *asynq.Inspector, t target) error { return i.DeleteQueue(t.queue, force) }
}
