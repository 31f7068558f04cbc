package main

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/hibiken/asynq"
)

type order struct {
	typename string
	payload  []byte
	headers  map[string]string
	id       string
	count    int
	options  []asynq.Option
}

// enqueue sends one task, or n equal ones, and answers each with its record. A task that asynq
// refused because of its unique lock or its id is answered as {"error": "duplicate"|"conflict"}.
func enqueue(args []string) error {
	flags, redis := newFlags("enqueue")
	order := orderFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := asynq.NewClient(redis)
	defer client.Close()
	for i := range order.count {
		if err := order.send(client, i); err != nil {
			return err
		}
	}
	return nil
}

func orderFlags(flags *flag.FlagSet) *order {
	o := &order{count: 1}
	option := func(name, usage string, parse func(string) (asynq.Option, error)) {
		flags.Func(name, usage, func(text string) error {
			option, err := parse(text)
			o.options = append(o.options, option)
			return err
		})
	}
	flags.StringVar(&o.typename, "type", "", "type of the task")
	flags.Func("payload", "payload in base64; nil without it", func(text string) (err error) {
		o.payload, err = base64.StdEncoding.DecodeString(text)
		return err
	})
	flags.Func("header", "`name=value`, repeatable (0.26)", o.addHeader)
	flags.StringVar(&o.id, "id", "", "task id; with a count its prefix, `prefix`-0, -1, …")
	flags.IntVar(&o.count, "count", o.count, "how many tasks")
	option("queue", "queue name", func(s string) (asynq.Option, error) { return asynq.Queue(s), nil })
	option("group", "group name", func(s string) (asynq.Option, error) { return asynq.Group(s), nil })
	option("max-retry", "retries before the archive", func(s string) (asynq.Option, error) {
		var n int
		_, err := fmt.Sscan(s, &n)
		return asynq.MaxRetry(n), err
	})
	option("timeout", "Go duration", ofDuration(asynq.Timeout))
	option("process-in", "Go duration", ofDuration(asynq.ProcessIn))
	option("unique", "Go duration", ofDuration(asynq.Unique))
	option("retention", "Go duration", ofDuration(asynq.Retention))
	option("deadline", "RFC 3339 time", ofTime(asynq.Deadline))
	option("process-at", "RFC 3339 time", ofTime(asynq.ProcessAt))
	return o
}

func ofDuration(option func(time.Duration) asynq.Option) func(string) (asynq.Option, error) {
	return func(text string) (asynq.Option, error) {
		d, err := time.ParseDuration(text)
		return option(d), err
	}
}

func ofTime(option func(time.Time) asynq.Option) func(string) (asynq.Option, error) {
	return func(text string) (asynq.Option, error) {
		t, err := time.Parse(time.RFC3339Nano, text)
		return option(t), err
	}
}

func (o *order) addHeader(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found {
		return errors.New("want name=value")
	}
	if o.headers == nil {
		o.headers = map[string]string{}
	}
	o.headers[name] = value
	return nil
}

func (o *order) send(client *asynq.Client, i int) error {
	task, err := newTask(o.typename, o.payload, o.headers)
	if err != nil {
		return err
	}
	info, err := client.Enqueue(task, o.optionsOf(i)...)
	switch {
	case errors.Is(err, asynq.ErrDuplicateTask):
		answer(map[string]string{"error": "duplicate"})
	case errors.Is(err, asynq.ErrTaskIDConflict):
		answer(map[string]string{"error": "conflict"})
	case err != nil:
		return err
	default:
		answer(recordOf(info))
	}
	return nil
}

func (o *order) optionsOf(i int) []asynq.Option {
	switch {
	case o.id == "":
		return o.options
	case o.count == 1:
		return append([]asynq.Option{asynq.TaskID(o.id)}, o.options...)
	default:
		return append([]asynq.Option{asynq.TaskID(fmt.Sprintf("%s-%d", o.id, i))}, o.options...)
	}
}
