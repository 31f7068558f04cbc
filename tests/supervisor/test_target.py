from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from asynqpy.supervisor.target import TargetError, check_target, load_target

MODULE = """
import functools

async def main(): ...
async def with_default(port=8000): ...
async def with_argument(port): ...
def plain(): ...
number = 3
bound = functools.partial(with_argument, 8000)

class Application:
    async def __call__(self): ...
    async def run(self): ...

application = Application()
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path: its modules are ``worker``, and ``broken``, which misses another."""
    package = tmp_path / "shop_of_targets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(MODULE)
    (package / "broken.py").write_text("import shop_of_targets.missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        monkeypatch.delitem(sys.modules, name)
    return package


@pytest.mark.parametrize(
    "target",
    [
        "shop",
        "shop:",
        ":main",
        "shop.worker.main",
        "shop/worker.py:main",
        "a:b:c",
        "a b:c",
        "a..b:c",
    ],
)
def test_target_that_is_not_spelt_as_one_says_how(target: str) -> None:
    with pytest.raises(TargetError, match=r"package\.module:function") as caught:
        check_target(target)
    assert repr(target) in str(caught.value)


def test_target_is_checked_without_an_import() -> None:
    assert check_target("not_there.at_all:main") == "not_there.at_all:main"


@pytest.mark.parametrize(
    "attribute", ["main", "with_default", "bound", "application", "application.run"]
)
def test_what_can_be_awaited_without_arguments_is_an_entry_point(attribute: str) -> None:
    entry_point = load_target(f"shop_of_targets.worker:{attribute}")
    coroutine = entry_point()
    coroutine.close()
    assert isinstance(entry_point, partial) or callable(entry_point)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("shop_of_nothing.worker:main", "no module named 'shop_of_nothing'"),
        ("shop_of_targets.nothing:main", "no module named 'shop_of_targets.nothing'"),
        ("shop_of_targets.worker:nothing", "has no attribute 'nothing'"),
        (
            "shop_of_targets.worker:plain",
            "shop_of_targets.worker:plain is no async def but a plain",
        ),
        ("shop_of_targets.worker:number", "of type int"),
        ("shop_of_targets.worker:with_argument", "without arguments: missing .* 'port'"),
    ],
)
def test_target_that_cannot_be_run_is_told_in_one_line(target: str, text: str) -> None:
    with pytest.raises(TargetError, match=text) as caught:
        load_target(target)
    assert len(str(caught.value).splitlines()) == 1


def test_module_that_misses_another_keeps_its_traceback() -> None:
    with pytest.raises(ModuleNotFoundError, match="missing_part"):
        load_target("shop_of_targets.broken:main")


def test_wrong_target_is_a_value_error() -> None:
    assert issubclass(TargetError, ValueError)
