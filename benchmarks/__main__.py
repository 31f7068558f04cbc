"""Answers several questions in one run, one after another: ``python -m benchmarks [--quick] [question ...]``."""

from __future__ import annotations

from benchmarks import (
    cpu_bound,
    enqueueing,
    growth,
    io_bound,
    latency,
    memory,
    processing,
    topologies,
    wakeup,
)
from benchmarks.harness import options
from benchmarks.harness.main import answer

QUESTIONS = {
    module.QUESTION.name: module.QUESTION
    for module in (
        processing,
        enqueueing,
        wakeup,
        latency,
        io_bound,
        cpu_bound,
        memory,
        growth,
        topologies,
    )
}

#: What the short form asks, unless questions are named.
QUICK = ("processing", "enqueueing", "wakeup")


def main() -> None:
    flags = options.parser("asynqpy beside Go's asynq and other task queues")
    flags.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    given = flags.parse_args()
    if unknown := set(given.questions) - QUESTIONS.keys():
        flags.error(f"no such question: {', '.join(sorted(unknown))}")
    names = given.questions or (QUICK if given.quick else QUESTIONS)
    answer([QUESTIONS[name] for name in names], options.options(given))


if __name__ == "__main__":
    main()
