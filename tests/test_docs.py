"""What the documentation says is there: names, programs, links, make targets."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import asynqpy
from asynqpy import AsynqError, Server, TaskOptions
from tests.asserting import assert_none
from tests.eventually import eventually

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), ROOT / "examples/README.md"]

#: A fenced block: what stands behind the fence, and the lines within.
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

#: A link to a file of the repository or a heading: its path and its fragment.
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)")

MAKE = re.compile(r"\bmake ([a-z]+)")

#: A program that has not ended by then hangs, s.
PATIENCE = 30


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``kind`` is what stands behind the fence, such as ``python runnable``."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(kind: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks_of(page) if block.kind.startswith(kind)]


def _blocks_of(page: Path) -> Iterator[Block]:
    text = read(page)
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", read(page))


def sections(page: Path) -> dict[str, str]:
    """Names that have a heading of their own, as code, and what stands below it."""
    parts = re.split(r"^#+ (.+)$", read(page), flags=re.MULTILINE)[1:]
    headed = zip(parts[::2], parts[1::2], strict=True)
    return {title.strip("`"): text for title, text in headed if title.startswith("`")}


def anchors(page: Path) -> set[str]:
    """The fragments by which the headings of a page are linked to."""
    titles = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tree_of(block: Block) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block.text, str(block), "exec", flags=flags)
    assert isinstance(tree, ast.Module)
    return tree


def start_program(file: Path) -> subprocess.Popen[str]:
    """A program in the folder of its file, on an embedded server, with warnings as errors."""
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", file.name],
        cwd=file.parent,
        env={**env, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_program(file: Path) -> str:
    """What the program prints; it must end by itself, and well."""
    with start_program(file) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, output
    return output


def test_the_reference_has_every_public_name_and_no_other() -> None:
    assert sorted(sections(DOCS / "reference.md")) == sorted(asynqpy.__all__)


def test_the_reference_tells_every_method_attribute_and_argument() -> None:
    assert_none(
        f"docs/reference.md does not tell of {part!r} under {name}"
        for name, text in sections(DOCS / "reference.md").items()
        for part in _parts_of(getattr(asynqpy, name))
        if not re.search(rf"\b{part}\b", text)
    )


def _parts_of(thing: object) -> set[str]:
    """Public members of a class, and what it or a function takes."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return set()
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return set()
    members = {name for name in vars(thing) if not name.startswith("_")}
    if thing is Server or inspect.isfunction(thing):
        members |= inspect.signature(thing).parameters.keys()
    return members


def test_the_guides_tell_of_every_task_option_and_every_error() -> None:
    options = sorted(TaskOptions.__annotations__)
    errors = [name for name in asynqpy.__all__ if name.endswith("Error")]
    assert all(issubclass(getattr(asynqpy, name), AsynqError) for name in errors)
    assert_none(name for name in options if f"`{name}`" not in read(DOCS / "guide/enqueueing.md"))
    assert_none(name for name in errors if f"`{name}`" not in read(DOCS / "guide/errors.md"))


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_compiles_and_imports_public_names(block: Block) -> None:
    imports = [node for node in ast.walk(tree_of(block)) if isinstance(node, ast.ImportFrom)]
    assert_none(
        f"{block} imports {alias.name} from {node.module}"
        for node in imports
        if node.module and node.module.partition(".")[0] == "asynqpy"
        for alias in node.names
        if node.module != "asynqpy" or alias.name not in asynqpy.__all__
    )


@pytest.mark.parametrize("block", blocks("python runnable"), ids=str)
def test_a_block_that_is_called_runnable_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text)
    assert run_program(program)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
@pytest.mark.parametrize("block", [b for b in blocks("ini") if "[Service]" in b.text], ids=str)
def test_systemd_finds_nothing_wrong_with_a_unit(block: Block, tmp_path: Path) -> None:
    unit = tmp_path / "documented.service"
    unit.write_text(
        re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", block.text, flags=re.M)
    )
    command = ["systemd-analyze", "verify", unit.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert_none(line for line in result.stderr.splitlines() if unit.name in line)


async def test_the_worker_and_the_client_of_the_quickstart_meet(tmp_path: Path) -> None:
    for name in ("worker.py", "client.py"):
        (text,) = (b.text for b in blocks("python") if b.text.startswith(f"# {name}\n"))
        (tmp_path / name).write_text(text)

    with start_program(tmp_path / "worker.py") as worker:
        try:
            assert "enqueued" in run_program(tmp_path / "client.py")
            assert worker.stdout is not None
            assert worker.stdout.readline() == "welcome, user 42\n"
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None, within=PATIENCE)
        finally:
            worker.kill()
    assert worker.returncode == 0


def test_links_lead_to_files_and_headings_that_exist() -> None:
    assert_none(
        f"{page.relative_to(ROOT)} links to {path}#{fragment}"
        for page in PAGES
        for path, fragment in LINK.findall(prose(page))
        if not _is_there(page.parent / path if path else page, fragment)
    )


def _is_there(target: Path, fragment: str) -> bool:
    if not target.exists():
        return False
    return not fragment or fragment in anchors(target)


def test_every_page_can_be_reached_from_the_contents() -> None:
    linked = {(DOCS / path).resolve() for path, _ in LINK.findall(read(DOCS / "index.md"))}
    pages = set(DOCS.rglob("*.md")) - {DOCS / "index.md"}
    assert_none(str(page.relative_to(ROOT)) for page in pages - linked)


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert_none(
        f"{page.relative_to(ROOT)}: make {name}"
        for page in PAGES
        for code in _shell_of(page)
        for name in MAKE.findall(code)
        if name not in targets
    )


def _shell_of(page: Path) -> Iterator[str]:
    """Fenced blocks that name no language, and inline code."""
    yield from (block.text for block in _blocks_of(page) if not block.kind)
    yield from re.findall(r"`([^`\n]+)`", prose(page))
