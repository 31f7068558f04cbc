"""Habits of the house that no linter knows (CONTRIBUTING.md tells them in words).

Imports have a test of their own, ``test_layers.py``.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.asserting import assert_none

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "asynqpy"
SCRIPTS = PACKAGE / "broker" / "lua"
WIRE_DOC = ROOT / "docs" / "wire.md"

#: Past 300 lines ask which second purpose has moved in; past this the file is divided.
MOST_LINES = 600

SOURCE_SUFFIXES = {".py", ".lua", ".go", ".js", ".css", ".html"}

#: Modules without a test file of their own, and why. Packages' ``__init__`` files are front doors:
#: ``test_exports.py`` pins the names of the outermost.
UNPAIRED_MODULES = {
    "embedded_watchdog.py": "a process of its own, driven by test_embedded.py",
    "supervisor/child.py": "a process of its own, driven by test_supervisor.py",
}

#: Test files that are about no single module, and what they are about.
UNPAIRED_TESTS = {
    "test_docs.py": "the documentation",
    "test_exports.py": "the public names",
    "test_house.py": "this house",
    "test_layers.py": "this house",
    "test_requires.py": "the tests' own requires.py",
}

#: Folders of tests that mirror no folder of the package, and what they are about.
UNPAIRED_FOLDERS = {
    "acceptance": "whole clients and servers",
    "benchmarks": "the benchmarks of benchmarks/",
    "chaos": "whole fleets under faults, and the harness that makes them",
    "examples": "the programs of examples/",
    "interop": "Go's asynq on the other side",
    "model": "the broker in histories of chance, against a model of it",
    "regressions": "the faults of the original, each by its number",
    "topologies": "the tests' own servers, put together",
    "trouble": "Redis that is away, full, slow, or another than before",
}

GENERATED = re.compile(r"_pb2\.pyi?$")

UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X]|NotImplemented[E]rror)\b|pragma: no cove[r]")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/")
LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"}

#: A Redis key or the start of one. A text such as "asynq: lease expired" is none.
KEY = re.compile(r"\basynq:(?!\s)|\basynqpy:\{")

#: A heading of docs/wire.md that documents a script: its name alone, as code.
SCRIPT_HEADING = re.compile(r"^#+ `([\w/]+)`$", re.MULTILINE)


@cache
def repository_files() -> list[Path]:
    """What git tracks, or would track if it were added; skips the test outside of a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = (ROOT / name.decode() for name in listing.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def matches(pattern: re.Pattern[str]) -> Iterator[str]:
    """Each line of the repository's texts that a pattern matches, with its place."""
    for path in repository_files():
        if path.suffix == ".png":
            continue
        for number, line in enumerate(read(path).splitlines(), 1):
            if pattern.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"


def package_modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if not GENERATED.search(p.name)]


def scripts() -> dict[str, Path]:
    return {p.relative_to(SCRIPTS).with_suffix("").as_posix(): p for p in SCRIPTS.rglob("*.lua")}


def header(script: Path) -> list[str]:
    """The comment lines that a script begins with, without their dashes."""
    lines = []
    for line in read(script).splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return lines


def spelt_texts(module: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a module (parts of f-strings too) with their lines; no docstrings."""
    tree = ast.parse(read(module), str(module))
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(text, str):
                yield node.lineno, text


def test_no_file_grows_past_its_limit() -> None:
    assert_none(
        f"{path.relative_to(ROOT)} has {lines} lines"
        for path in repository_files()
        if path.suffix in SOURCE_SUFFIXES and not GENERATED.search(path.name)
        if (lines := len(read(path).splitlines())) > MOST_LINES
    )


def test_every_module_has_a_test_file_in_the_mirrored_place() -> None:
    modules = {p.relative_to(PACKAGE) for p in package_modules() if p.name != "__init__.py"}
    assert_none(
        f"asynqpy/{module} wants {test.relative_to(ROOT)}"
        for module in modules
        if module.as_posix() not in UNPAIRED_MODULES
        if not (test := ROOT / "tests" / module.parent / f"test_{module.name}").exists()
    )


def test_every_test_file_is_about_a_module_or_its_aspect() -> None:
    tests = [p.relative_to(ROOT / "tests") for p in (ROOT / "tests").rglob("test_*.py")]
    assert_none(
        f"tests/{test} is about no module of asynqpy/{test.parent}"
        for test in tests
        if test.parts[0] not in UNPAIRED_FOLDERS and test.as_posix() not in UNPAIRED_TESTS
        if not _has_subject(test)
    )


def _has_subject(test: Path) -> bool:
    """Whether a module or package fits: ``test_broker_limits.py`` is about ``broker`` too."""
    words = test.stem.split("_")[1:]
    places = [PACKAGE / test.parent / "_".join(words[: n + 1]) for n in range(len(words))]
    return any(p.with_suffix(".py").exists() or (p / "__init__.py").exists() for p in places)


def test_exceptions_name_modules_that_exist() -> None:
    assert_none(name for name in UNPAIRED_MODULES if not (PACKAGE / name).exists())


def test_every_script_opens_with_what_it_does_takes_and_returns() -> None:
    assert_none(
        f"{name}.lua does not say: {part}"
        for name, path in scripts().items()
        for part in _missing_parts(header(path))
    )


def _missing_parts(lines: list[str]) -> Iterator[str]:
    words = [re.split(r"\W", line)[0] for line in lines]
    if not words or words[0] in {"", "KEYS", "ARGV", "Returns"}:
        yield "what it does"
    yield from (part for part in ("KEYS", "ARGV", "Returns") if part not in words)


def test_every_script_has_its_heading_in_the_wire_document() -> None:
    headings = set(SCRIPT_HEADING.findall(read(WIRE_DOC))) if WIRE_DOC.exists() else set()
    assert_none(f"docs/wire.md wants a heading `{name}`" for name in scripts().keys() - headings)
    assert_none(f"docs/wire.md tells of no script: {name}" for name in headings - scripts().keys())


def test_every_script_is_called_by_its_name() -> None:
    spelt = {text for p in (PACKAGE / "broker").rglob("*.py") for _, text in spelt_texts(p)}
    assert_none(f"nobody calls {name}.lua" for name in scripts().keys() - spelt)


def test_no_script_text_lives_in_a_module() -> None:
    assert_none(
        str(path.relative_to(ROOT))
        for path in package_modules()
        if re.search(r"\bredis\.p?call\b", read(path))
    )


def test_keys_are_spelt_in_one_module() -> None:
    assert_none(
        f"{module.relative_to(ROOT)}:{line}: {text}"
        for module in package_modules()
        if module != PACKAGE / "broker" / "keys.py"
        for line, text in spelt_texts(module)
        if KEY.search(text)
    )


def test_scripts_are_given_their_keys() -> None:
    assert_none(
        f"{name}.lua:{number}: {line}"
        for name, path in scripts().items()
        for number, line in enumerate(read(path).splitlines(), 1)
        if KEY.search(line.partition("--")[0])
    )


def test_nothing_is_left_unfinished() -> None:
    assert_none(matches(UNFINISHED))


def test_no_path_of_somebodys_machine_is_committed() -> None:
    assert_none(matches(MACHINE_PATH))


def test_no_lock_file_is_committed() -> None:
    """They record where packages were downloaded from."""
    assert_none(str(path) for path in repository_files() if path.name in LOCK_FILES)


def test_required_programs_are_asked_for_in_one_place() -> None:
    allowed = {"requires.py", "test_requires.py", "test_house.py"}
    assert_none(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if path.name not in allowed and "ASYNQPY_REQUIRE" in read(path)
    )
