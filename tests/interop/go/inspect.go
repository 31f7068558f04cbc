package main

import (
	"fmt"

	"github.com/hibiken/asynq"
)

type target struct {
	queue, id, state, group string
	page, size              int
}

var questions = map[string]func(*asynq.Inspector, target) error{
	"queues":       showQueues,
	"queue":        showQueue,
	"list":         listTasks,
	"task":         showTask,
	"servers":      showServers,
	"run":          func(i *asynq.Inspector, t target) error { return i.RunTask(t.queue, t.id) },
	"archive":      func(i *asynq.Inspector, t target) error { return i.ArchiveTask(t.queue, t.id) },
	"delete":       func(i *asynq.Inspector, t target) error { return i.DeleteTask(t.queue, t.id) },
	"run-all":      runAll.do,
	"archive-all":  archiveAll.do,
	"delete-all":   deleteAll.do,
	"remove":       removeQueue(false),
	"remove-force": removeQueue(true),
	"history":      showHistory,
	"groups":       showGroups,
	"entries":      showEntries,
	"events":       showEvents,
	"slot":         showSlot,
	"cancel":       func(i *asynq.Inspector, t target) error { return i.CancelProcessing(t.id) },
	"pause":        func(i *asynq.Inspector, t target) error { return i.PauseQueue(t.queue) },
	"unpause":      func(i *asynq.Inspector, t target) error { return i.UnpauseQueue(t.queue) },
}

// inspect asks one question of asynq's Inspector, or does one of its actions on one task or queue.
func inspect(args []string) error {
	flags, redis := newFlags("inspect")
	what := flags.String("do", "queues", "queues, queue, list, task, servers, run, archive, …")
	var t target
	flags.StringVar(&t.queue, "queue", "default", "queue name")
	flags.StringVar(&t.id, "id", "", "task id")
	flags.StringVar(&t.state, "state", "pending", "state to list")
	flags.IntVar(&t.page, "page", 1, "page to list")
	flags.IntVar(&t.size, "size", 0, "tasks or events of a page; 0 is all")
	flags.StringVar(&t.group, "group", "", "group to list, of the state aggregating")
	if err := flags.Parse(args); err != nil {
		return err
	}
	do := questions[*what]
	if do == nil {
		return fmt.Errorf("nothing known about -do %s", *what)
	}
	inspector := asynq.NewInspector(redis)
	defer inspector.Close()
	return do(inspector, t)
}

func showQueues(i *asynq.Inspector, _ target) error {
	names, err := i.Queues()
	for _, name := range names {
		answer(map[string]string{"queue": name})
	}
	return err
}

func showQueue(i *asynq.Inspector, t target) error {
	info, err := i.GetQueueInfo(t.queue)
	if err == nil {
		answer(recordOfQueue(info))
	}
	return err
}

func showTask(i *asynq.Inspector, t target) error {
	info, err := i.GetTaskInfo(t.queue, t.id)
	if err == nil {
		answer(recordOf(info))
	}
	return err
}

func listTasks(i *asynq.Inspector, t target) error {
	infos, err := tasksIn(i, t)
	for _, info := range infos {
		answer(recordOf(info))
	}
	return err
}

func tasksIn(i *asynq.Inspector, t target) ([]*asynq.TaskInfo, error) {
	page, size := asynq.Page(t.page), asynq.PageSize(t.size)
	switch t.state {
	case "pending":
		return i.ListPendingTasks(t.queue, page, size)
	case "active":
		return i.ListActiveTasks(t.queue, page, size)
	case "scheduled":
		return i.ListScheduledTasks(t.queue, page, size)
	case "retry":
		return i.ListRetryTasks(t.queue, page, size)
	case "archived":
		return i.ListArchivedTasks(t.queue, page, size)
	case "completed":
		return i.ListCompletedTasks(t.queue, page, size)
	case "aggregating":
		return i.ListAggregatingTasks(t.queue, t.group, page, size)
	}
	return nil, fmt.Errorf("no such state: %s", t.state)
}

func showServers(i *asynq.Inspector, _ target) error {
	servers, err := i.Servers()
	for _, server := range servers {
		answer(recordOfServer(server))
	}
	return err
}
