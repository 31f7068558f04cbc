from __future__ import annotations

import re
from pathlib import Path

from tests.asserting import assert_none

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_readme_lists_every_example() -> None:
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text()))
    folders = {path.name for path in EXAMPLES.iterdir() if any(path.glob("*.py"))}
    assert listed == folders | {path.name for path in EXAMPLES.glob("*.py")}


def test_every_command_names_a_module_that_exists() -> None:
    texts = [path.read_text() for path in EXAMPLES.rglob("*") if path.suffix in {".md", ".py"}]
    modules = {
        name for text in texts for name in re.findall(r"(?:-m|uvicorn) examples\.([\w.]+)", text)
    }
    assert modules
    assert_none(name for name in modules if not _can_be_run(EXAMPLES / name.replace(".", "/")))


def _can_be_run(module: Path) -> bool:
    return module.with_suffix(".py").exists() or (module / "__main__.py").exists()
