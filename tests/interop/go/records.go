package main

import (
	"time"

	"github.com/hibiken/asynq"
)

// taskRecord is asynq.TaskInfo as JSON: bytes in base64, durations in seconds, no zero times.
type taskRecord struct {
	ID            string            `json:"id"`
	Queue         string            `json:"queue"`
	Type          string            `json:"type"`
	Payload       []byte            `json:"payload"`
	Headers       map[string]string `json:"headers"`
	State         string            `json:"state"`
	MaxRetry      int               `json:"max_retry"`
	Retried       int               `json:"retried"`
	LastError     string            `json:"last_error"`
	LastFailedAt  *time.Time        `json:"last_failed_at"`
	Timeout       float64           `json:"timeout"`
	Deadline      *time.Time        `json:"deadline"`
	Group         string            `json:"group"`
	NextProcessAt *time.Time        `json:"next_process_at"`
	IsOrphaned    bool              `json:"is_orphaned"`
	Retention     float64           `json:"retention"`
	CompletedAt   *time.Time        `json:"completed_at"`
	Result        []byte            `json:"result"`
}

func recordOf(t *asynq.TaskInfo) taskRecord {
	return taskRecord{
		ID:            t.ID,
		Queue:         t.Queue,
		Type:          t.Type,
		Payload:       t.Payload,
		Headers:       headersOf(t),
		State:         t.State.String(),
		MaxRetry:      t.MaxRetry,
		Retried:       t.Retried,
		LastError:     t.LastErr,
		LastFailedAt:  unlessZero(t.LastFailedAt),
		Timeout:       t.Timeout.Seconds(),
		Deadline:      unlessZero(t.Deadline),
		Group:         t.Group,
		NextProcessAt: unlessZero(t.NextProcessAt),
		IsOrphaned:    t.IsOrphaned,
		Retention:     t.Retention.Seconds(),
		CompletedAt:   unlessZero(t.CompletedAt),
		Result:        t.Result,
	}
}

type queueRecord struct {
	Queue          string  `json:"queue"`
	Size           int     `json:"size"`
	Pending        int     `json:"pending"`
	Active         int     `json:"active"`
	Scheduled      int     `json:"scheduled"`
	Retry          int     `json:"retry"`
	Archived       int     `json:"archived"`
	Completed      int     `json:"completed"`
	Aggregating    int     `json:"aggregating"`
	Groups         int     `json:"groups"`
	Processed      int     `json:"processed"`
	Failed         int     `json:"failed"`
	ProcessedTotal int     `json:"processed_total"`
	FailedTotal    int     `json:"failed_total"`
	Paused         bool    `json:"paused"`
	Latency        float64 `json:"latency"`
	MemoryUsage    int64   `json:"memory_usage"`
}

func recordOfQueue(q *asynq.QueueInfo) queueRecord {
	return queueRecord{
		Queue:          q.Queue,
		Size:           q.Size,
		Pending:        q.Pending,
		Active:         q.Active,
		Scheduled:      q.Scheduled,
		Retry:          q.Retry,
		Archived:       q.Archived,
		Completed:      q.Completed,
		Aggregating:    q.Aggregating,
		Groups:         q.Groups,
		Processed:      q.Processed,
		Failed:         q.Failed,
		ProcessedTotal: q.ProcessedTotal,
		FailedTotal:    q.FailedTotal,
		Paused:         q.Paused,
		Latency:        q.Latency.Seconds(),
		MemoryUsage:    q.MemoryUsage,
	}
}

type serverRecord struct {
	ID             string         `json:"id"`
	Host           string         `json:"host"`
	PID            int            `json:"pid"`
	Concurrency    int            `json:"concurrency"`
	Queues         map[string]int `json:"queues"`
	StrictPriority bool           `json:"strict_priority"`
	Started        time.Time      `json:"started"`
	Status         string         `json:"status"`
	Workers        []workerRecord `json:"workers"`
}

type workerRecord struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	Payload  []byte    `json:"payload"`
	Queue    string    `json:"queue"`
	Started  time.Time `json:"started"`
	Deadline time.Time `json:"deadline"`
}

func recordOfServer(s *asynq.ServerInfo) serverRecord {
	workers := make([]workerRecord, 0, len(s.ActiveWorkers))
	for _, w := range s.ActiveWorkers {
		workers = append(workers, workerRecord{
			ID:       w.TaskID,
			Type:     w.TaskType,
			Payload:  w.TaskPayload,
			Queue:    w.Queue,
			Started:  w.Started,
			Deadline: w.Deadline,
		})
	}
	return serverRecord{
		ID:             s.ID,
		Host:           s.Host,
		PID:            s.PID,
		Concurrency:    s.Concurrency,
		Queues:         s.Queues,
		StrictPriority: s.StrictPriority,
		Started:        s.Started,
		Status:         s.Status,
		Workers:        workers,
	}
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
