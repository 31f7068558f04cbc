// The contender on Go's asynq: a worker and a producer.
//
//	bench worker <redis URL> noop|sleep:<ms>|cpu:<iterations>|latency <concurrency> <tasks>
//	bench producer <redis URL> sequential|concurrent|fill <tasks>
//	bench producer <redis URL> paced <rate> <seconds>
//	bench producer <redis URL> single
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
)

// The exit status that says that this producer lacks a mode.
const noSuchMode = 3

func main() {
	if len(os.Args) < 4 {
		fail(fmt.Errorf("usage: bench worker|producer <redis URL> ..."))
	}
	redis, err := asynq.ParseRedisURI(os.Args[2])
	if err != nil {
		fail(err)
	}
	switch os.Args[1] {
	case "worker":
		work(redis, os.Args[3], number(4), number(5))
	case "producer":
		produce(redis, os.Args[3])
	default:
		fail(fmt.Errorf("neither worker nor producer: %s", os.Args[1]))
	}
}

// number reads an argument that is an integer.
func number(place int) int {
	if place >= len(os.Args) {
		fail(fmt.Errorf("argument %d is missing", place))
	}
	value, err := strconv.Atoi(os.Args[place])
	if err != nil {
		fail(err)
	}
	return value
}

// variable reads an environment variable that is an integer, or answers its default.
func variable(name string, otherwise int) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return value
}

func sayReady() { fmt.Println("ready") }

func saySeconds(elapsed time.Duration) { fmt.Printf("{\"seconds\": %f}\n", elapsed.Seconds()) }

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
