"""Who is measured: the folders of benchmarks/contenders, each described by its contender.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

FOLDER = Path(__file__).parents[1] / "contenders"

#: ``own``: in the interpreter that runs the harness; ``python``: in a virtualenv of its own; ``go``: benchmarks/go.
Kind = Literal["own", "python", "go"]


class Contender(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What contender.json tells.

    - ``questions``: the benchmarks that it takes part in;
    - ``note``: what differs in the work that it does, one line, shown with its figures;
    - ``concurrency``: what the worker's concurrency means to it;
    - ``package``: the distribution whose version is shown, default its name;
    - ``like``: another contender whose scripts and virtualenv it uses, with an ``environment`` of its own;
    - ``filler``: another contender that fills its queues faster, for the same tasks.
    """

    name: str
    title: str
    kind: Kind
    questions: tuple[str, ...]
    note: str = ""
    concurrency: Literal["tasks", "processes", "threads"] = "tasks"
    package: str = ""
    like: str = ""
    filler: str = ""
    environment: dict[str, str] = {}

    @property
    def home(self) -> str:
        """The name of the folder that holds its scripts."""
        return self.like or self.name


def discover(folder: Path = FOLDER) -> dict[str, Contender]:
    """Every contender by its name; asynqpy and Go first, the others by their names.

    Raises ``ValueError`` naming the file that is wrong.
    """
    found = [_read(path) for path in sorted(folder.glob("*/contender.json"))]
    found.sort(key=lambda contender: (contender.kind != "own", contender.kind != "go"))
    return {contender.name: contender for contender in found}


def _read(path: Path) -> Contender:
    try:
        contender = msgspec.json.decode(path.read_bytes(), type=Contender)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    if contender.name != path.parent.name:
        raise ValueError(f"{path}: its name is {contender.name!r}, its folder another")
    return contender


def taking_part(
    contenders: dict[str, Contender], question: str, only: Sequence[str] = ()
) -> list[Contender]:
    """Those that answer the question; of them ``only`` the named, unless none is named.

    Raises ``ValueError`` for a name that nobody has.
    """
    if unknown := set(only) - contenders.keys():
        raise ValueError(f"no such contender: {', '.join(sorted(unknown))}")
    return [
        contender
        for contender in contenders.values()
        if question in contender.questions and (not only or contender.name in only)
    ]
