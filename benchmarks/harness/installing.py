"""Makes contenders ready to run: a virtualenv for each Python peer, a binary of the Go program.

Both stay under build/bench, and are made again when what they are made of has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.contenders import FOLDER, Contender

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench"
GO_SOURCES = ROOT / "benchmarks" / "go"

_INSTALL_TIMEOUT = 300
_VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


class NotInstalled(Exception):
    """The contender cannot run here; the text says why."""


@dataclass(frozen=True)
class Program:
    """An installed contender: the commands that start it, to which the arguments are added."""

    contender: Contender
    worker: tuple[str, ...]
    producer: tuple[str, ...]
    version: str


def install_all(
    contenders: Iterable[Contender], told: Callable[[str], None] = lambda name: None
) -> tuple[dict[str, Program], dict[str, str]]:
    """The programs of those that can run, and of the others why they cannot; ``told`` of each that is ready.

    Two at a time: pip mostly waits for the network or unpacks.
    """
    programs: dict[str, Program] = {}
    reasons: dict[str, str] = {}

    def one(group: list[Contender]) -> None:
        for contender in group:
            try:
                programs[contender.name] = install(contender)
            except NotInstalled as reason:
                reasons[contender.name] = str(reason)
            except Exception as error:  # such as a full disk: the others are measured
                reasons[contender.name] = f"{type(error).__name__}: {error}"
            told(contender.name)

    homes: dict[str, list[Contender]] = {}
    for contender in contenders:
        homes.setdefault(contender.home, []).append(contender)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, homes.values()))
    return programs, reasons


def install(contender: Contender) -> Program:
    """Raises ``NotInstalled``."""
    if contender.kind == "go":
        binary = str(_go_binary())
        return Program(contender, (binary, "worker"), (binary, "producer"), _go_version(contender))
    python = sys.executable if contender.kind == "own" else str(_virtualenv(contender))
    scripts = FOLDER / contender.home
    return Program(
        contender,
        (python, str(scripts / "worker.py")),
        (python, str(scripts / "producer.py")),
        _version(python, contender.package or contender.home),
    )


def _virtualenv(contender: Contender) -> Path:
    """The interpreter of the contender's virtualenv."""
    folder = BUILD / "venvs" / contender.home
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at the same
        return _installed(FOLDER / contender.home / "requirements.txt", folder)


def _installed(requirements: Path, folder: Path) -> Path:
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--retries", "1", "--timeout", "10", "-r", str(requirements)])
    stamp.write_text(digest)
    return python


def _go_binary() -> Path:
    if not shutil.which("go"):
        raise NotInstalled("Go is not installed (no `go` in PATH)")
    content = hashlib.sha256()
    for path in sorted(GO_SOURCES.iterdir()):
        content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    binary = BUILD / "go" / content.hexdigest()[:16]
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        unfinished = binary.with_suffix(".unfinished")
        _run(["go", "build", "-buildvcs=false", "-o", str(unfinished), "."], cwd=GO_SOURCES)
        unfinished.replace(binary)
    return binary


def _go_version(contender: Contender) -> str:
    for line in (GO_SOURCES / "go.mod").read_text().splitlines():
        words = line.replace("require ", "").split()
        if words[:1] == [contender.package]:
            return words[1].removeprefix("v")
    raise NotInstalled(f"go.mod does not require {contender.package}")


def _version(python: str, package: str) -> str:
    return _run([python, "-c", _VERSION, package]).strip()


def _run(command: list[str], cwd: Path | None = None) -> str:
    """What the command prints; its last words are the reason when it fails."""
    try:
        ended = subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not installed within {_INSTALL_TIMEOUT} s") from error
    except subprocess.CalledProcessError as error:
        raise NotInstalled(last_words(error.stderr)) from error
    return ended.stdout


def last_words(text: str) -> str:
    """The last line of what a program wrote to stderr, cut to a table's measure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it failed without a word"
