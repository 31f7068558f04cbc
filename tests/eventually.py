from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], within: float = 5.0) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], within: float = 5.0) -> T: ...


async def eventually(predicate: Callable[[], Any], within: float = 5.0) -> Any:
    """The first truthy value of the predicate; fails with its last one after ``within`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        value = predicate()
        result = await value if inspect.isawaitable(value) else value
        if result:
            return result
        if loop.time() > deadline:
            raise AssertionError(f"still {result!r} after {within} s")
        await asyncio.sleep(0.005)
