"""Builds the Go program of ./go, once for each version of asynq."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "go"

# version of asynq -> what `go build` needs to compile against it
VERSIONS = {
    "0.26": [],
    "0.24.1": ["-modfile=go.v024.mod", "-tags=asynq024"],
}


@functools.cache
def build(version: str) -> Path:
    """The path of the binary for a version of ``VERSIONS``.

    It is kept outside the tree, in a folder named after the content of the sources, so that only
    a change builds again. Raises ``subprocess.CalledProcessError`` when the build fails; what the
    compiler said is in the captured output.
    """
    folder = Path(tempfile.gettempdir()) / f"asynqpy-interop-{os.getuid()}-{_digest()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    binary = folder / f"asynq-{version}"
    if not binary.exists():
        _compile(VERSIONS[version], binary)
    return binary


def _compile(flags: list[str], binary: Path) -> None:
    # Renamed into place when whole: another test session may be building the same one.
    unfinished = binary.with_name(f"{binary.name}.{os.getpid()}")
    command = ["go", "build", "-buildvcs=false", *flags, "-o", str(unfinished), "."]
    subprocess.run(command, cwd=SOURCES, check=True, stdin=subprocess.DEVNULL)
    unfinished.replace(binary)


def _digest() -> str:
    content = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]
