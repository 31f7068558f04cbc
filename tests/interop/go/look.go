package main

import (
	"time"

	"github.com/hibiken/asynq"
)

// What asynq's Inspector tells beside queues, tasks and servers.

type dayRecord struct {
	Queue     string `json:"queue"`
	Date      string `json:"date"`
	Processed int    `json:"processed"`
	Failed    int    `json:"failed"`
}

type entryRecord struct {
	ID      string     `json:"id"`
	Spec    string     `json:"spec"`
	Type    string     `json:"type"`
	Payload []byte     `json:"payload"`
	Options []string   `json:"options"`
	Next    *time.Time `json:"next"`
	Prev    *time.Time `json:"prev"`
}

type eventRecord struct {
	ID         string    `json:"id"`
	EnqueuedAt time.Time `json:"enqueued_at"`
}

func showHistory(i *asynq.Inspector, t target) error {
	days, err := i.History(t.queue, 7)
	for _, d := range days {
		answer(dayRecord{d.Queue, d.Date.Format(time.DateOnly), d.Processed, d.Failed})
	}
	return err
}

func showGroups(i *asynq.Inspector, t target) error {
	groups, err := i.Groups(t.queue)
	for _, g := range groups {
		answer(map[string]any{"group": g.Group, "size": g.Size})
	}
	return err
}

func showEntries(i *asynq.Inspector, _ target) error {
	entries, err := i.SchedulerEntries()
	for _, e := range entries {
		options := make([]string, 0, len(e.Opts))
		for _, option := range e.Opts {
			options = append(options, option.String())
		}
		answer(entryRecord{
			ID:      e.ID,
			Spec:    e.Spec,
			Type:    e.Task.Type(),
			Payload: e.Task.Payload(),
			Options: options,
			Next:    unlessZero(e.Next),
			Prev:    unlessZero(e.Prev),
		})
	}
	return err
}

// showEvents takes the id of an entry.
func showEvents(i *asynq.Inspector, t target) error {
	events, err := i.ListSchedulerEnqueueEvents(t.id, asynq.PageSize(t.size), asynq.Page(t.page))
	for _, e := range events {
		answer(eventRecord{e.TaskID, e.EnqueuedAt})
	}
	return err
}

func showSlot(i *asynq.Inspector, t target) error {
	slot, err := i.ClusterKeySlot(t.queue)
	if err == nil {
		answer(map[string]int64{"slot": slot})
	}
	return err
}
