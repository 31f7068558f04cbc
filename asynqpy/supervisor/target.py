"""The program of a worker, by the name of its entry point: ``shop.worker:main``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Coroutine
from operator import attrgetter
from typing import Any, TypeAlias

#: ``async def main() -> None``: runs servers until they are told to stop.
EntryPoint: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


class TargetError(ValueError):
    """No entry point goes by this name. The text is one line."""


def check_target(target: str) -> str:
    """The target, if it is spelt as one; nothing is imported. Raises ``TargetError``."""
    module, colon, attribute = target.partition(":")
    if not colon or not all(_is_dotted_name(part) for part in (module, attribute)):
        raise TargetError(
            f"a target is written package.module:function, such as shop.worker:main, not {target!r}"
        )
    return target


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def load_target(target: str) -> EntryPoint:
    """Import the entry point.

    Raises ``TargetError`` unless it is there and an ``async def`` that takes no arguments; whatever the module raises
    while it is imported passes.
    """
    module_name, _, attribute = check_target(target).partition(":")
    found = _find(_import(module_name), attribute)
    if not _is_coroutine_function(found):
        raise TargetError(f"{target} is no async def but {_kind_of(found)}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise TargetError(f"{target} cannot be called without arguments: {error}") from None
    entry_point: EntryPoint = found
    return entry_point


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # One that the module itself misses is its own fault, with a traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise TargetError(f"no module named {error.name!r} for the target") from None


def _find(module: object, attribute: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        raise TargetError(str(error)) from None


def _is_coroutine_function(value: object) -> bool:
    return any(map(inspect.iscoroutinefunction, (value, getattr(value, "__call__", None))))  # noqa: B004


def _kind_of(value: object) -> str:
    return "a plain def" if inspect.isfunction(value) else f"of type {type(value).__name__}"
