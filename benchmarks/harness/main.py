"""Runs questions from the command line: installs, plays, shows a bar, writes what came out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

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

    ``adjust`` changes the common options to what fits this question.
    """

    name: str
    title: str
    plan: Callable[[Stage, list[Program]], list[Plan]]
    adjust: Callable[[Options], Options] = lambda options: options


def run(question: Question) -> None:
    """A question's script: flags from the command line."""
    answer([question], options.parse(question.title))


def answer(questions: Sequence[Question], chosen: Options) -> list[Result]:
    """Answer questions one after another, and write and print the results."""
    console = Console()
    contenders = discover()
    wanted = {
        question.name: taking_part(contenders, question.name, chosen.only) for question in questions
    }
    with _bar(console) as bar:
        programs, skipped = _install(bar, contenders, wanted)
        results = []
        with BenchRedis() as redis:
            for question in questions:
                mine = [c for c in wanted[question.name] if c.name in programs]
                stage = Stage(redis, programs, question.adjust(chosen))
                result = _answer(bar, question, stage, mine)
                result.skipped = {
                    contenders[name].title: reason
                    for name, reason in skipped.items()
                    if contenders[name] in wanted[question.name]
                }
                write(result, chosen)
                results.append(result)
                tables.show(result, console)
    console.print(f"written to {chosen.out}")
    return results


def write(result: Result, chosen: Options) -> None:
    """``<question>.json``, ``.md``, ``.png`` and ``.svg`` in the folder of the results."""
    chosen.out.mkdir(parents=True, exist_ok=True)
    records.save(result, chosen.out)
    (chosen.out / f"{result.question}.md").write_text(tables.page(result))
    plots.draw(result, chosen.out)


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
    bar: Progress, question: Question, stage: Stage, contenders: Sequence[Contender]
) -> Result:
    chosen = stage.options
    plans = question.plan(stage, [stage.programs[contender.name] for contender in contenders])
    steps = chosen.rounds * sum(len(plan.takes) for plan in plans)
    step = bar.add_task(question.name, total=steps)
    begun = datetime.now(UTC)
    play(
        plans,
        chosen.rounds,
        limit=chosen.limit,
        told=lambda what: bar.update(step, advance=1, description=f"{question.name}, {what}"),
    )
    bar.remove_task(step)
    return Result(
        question=question.name,
        title=question.title,
        date=begun.strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        rounds=chosen.rounds,
        machine=machine.facts(stage.redis.version),
        versions={c.title: stage.programs[c.name].version for c in contenders},
        skipped={},
        measures=[plan.measure for plan in plans],
    )


def command_line() -> str:
    """How this run was started, as one would type it."""
    main = sys.modules["__main__"]
    module = main.__spec__.name.removesuffix(".__main__") if main.__spec__ else "benchmarks"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def with_limits(**changes: int) -> Callable[[Options], Options]:
    """An ``adjust`` that changes the full form only."""
    return lambda options: options if options.quick else replace(options, **changes)  # type: ignore[arg-type]
