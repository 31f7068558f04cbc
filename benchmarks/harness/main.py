"""Runs questions from the command line: installs, plays, shows a bar, writes what came out."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks.harness import machine, options, plots, records, tables
from benchmarks.harness.contenders import Contender, discover, taking_part
from benchmarks.harness.installing import Program, install_all
from benchmarks.harness.options import Options
from benchmarks.harness.records import Result
from benchmarks.harness.redis_server import BenchRedis
from benchmarks.harness.rounds import Plan, play
from benchmarks.harness.stage import Stage


@dataclass(frozen=True)
class Question:
    """A benchmark. ``plan(stage, contenders)`` says what is measured, of those that take part and could be installed.

    ``adjust`` changes the common options to what fits this question; ``across``: a round goes through all plans, since
    they are compared with one another.
    """

    name: str
    title: str
    plan: Callable[[Stage, list[Program]], list[Plan]]
    adjust: Callable[[Options], Options] = lambda options: options
    across: bool = False


def run(question: Question) -> None:
    """A question's script: flags from the command line."""
    answer([question], options.parse(question.title))


def answer(questions: Sequence[Question], chosen: Options) -> list[Result]:
    """Answer questions one after another, and write and print the results.

    What was measured before an interruption is written too.
    """
    console = Console()
    contenders = discover()
    wanted = {
        question.name: taking_part(contenders, question.name, chosen.only) for question in questions
    }
    with _ending(), _bar(console) as bar:
        programs, skipped = _install(bar, contenders, wanted)
        results = []
        with BenchRedis() as redis:
            for question in questions:
                mine = [c for c in wanted[question.name] if c.name in programs]
                stage = Stage(redis, programs, question.adjust(chosen))
                absent = {
                    contenders[name].title: reason
                    for name, reason in skipped.items()
                    if contenders[name] in wanted[question.name]
                }
                result = _answer(bar, question, stage, mine, absent)
                results.append(result)
                tables.show(result, console)
    console.print(f"written to {chosen.out}")
    return results


def write(result: Result, chosen: Options) -> None:
    """``<question>.json``, ``.md``, ``.png`` and ``.svg`` in the folder of the results."""
    records.save(result, chosen.out)
    (chosen.out / f"{result.question}.md").write_text(tables.page(result))
    plots.draw(result, chosen.out)


@contextmanager
def _ending() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP unwind, once, as Ctrl-C does: whatever was started is ended."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    )


def _install(
    bar: Progress, contenders: dict[str, Contender], wanted: dict[str, list[Contender]]
) -> tuple[dict[str, Program], dict[str, str]]:
    names = {contender.name for group in wanted.values() for contender in group}
    names |= {contenders[name].filler for name in names} - {""}
    step = bar.add_task("installing", total=len(names))
    programs, skipped = install_all(
        [contender for contender in contenders.values() if contender.name in names],
        lambda name: bar.update(step, advance=1, description=f"installed {name}"),
    )
    bar.remove_task(step)
    return programs, skipped


def _answer(
    bar: Progress,
    question: Question,
    stage: Stage,
    contenders: Sequence[Contender],
    skipped: dict[str, str],
) -> Result:
    chosen = stage.options
    plans = question.plan(stage, [stage.programs[contender.name] for contender in contenders])
    steps = chosen.rounds * sum(len(plan.takes) for plan in plans)
    step = bar.add_task(question.name, total=steps)
    nothing = Result(
        question=question.name,
        title=question.title,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        rounds=chosen.rounds,
        machine=machine.facts(stage.redis.version),
        versions={c.title: stage.programs[c.name].version for c in contenders},
        skipped=skipped,
        measures=[],
    )
    earlier = records.load_earlier(question.name, chosen.out) if chosen.add else None

    def so_far() -> Result:
        begun = [plan.measure for plan in plans if plan.measure.has_begun]
        return records.merged(msgspec.structs.replace(nothing, measures=begun), earlier)

    try:
        play(
            plans,
            chosen.rounds,
            limit=chosen.limit,
            across=question.across,
            told=lambda what: bar.update(step, advance=1, description=f"{question.name}, {what}"),
            noted=lambda: records.save(so_far(), chosen.out),
        )
    finally:
        if (result := so_far()).measures:
            write(result, chosen)
    bar.remove_task(step)
    return result


def command_line() -> str:
    """How this run was started, as one would type it."""
    main = sys.modules["__main__"]
    module = main.__spec__.name.removesuffix(".__main__") if main.__spec__ else "benchmarks"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def with_limits(**changes: int) -> Callable[[Options], Options]:
    """An ``adjust`` that changes the full form only."""
    return lambda options: options if options.quick else replace(options, **changes)  # type: ignore[arg-type]
