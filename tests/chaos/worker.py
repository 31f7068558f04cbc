"""A worker process of the harness: ``python -m tests.chaos.worker <config.json>``.

The configuration, which Go's worker reads too: ``redis`` (URL), ``folder`` (for the journal), ``concurrency``,
``queues`` (name -> priority), ``shutdown_timeout`` (s), ``retry_delay`` (s; the engine's own without it), ``skew`` (s:
how far this host's clock is off), ``error_rate`` (share of the round trips to Redis that fail), ``detours`` (port of
127.0.0.1 -> the one that is connected to instead), ``knocks`` (whether attempts to connect are noted), and
``options``, those of ``Server`` besides. Go's knows none of the last five.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tests.chaos.knocks import note_knocks


def skew_clock(seconds: float) -> None:
    """Let ``time.time`` of this process be off; the journals read ``time_ns`` and stay right."""
    honest = time.time
    time.time = lambda: honest() + seconds


def take_detours(ports: Mapping[int, int]) -> None:
    """Let this process connect to proxies in place of these ports. Below all that knows of addresses."""
    honest = asyncio.BaseEventLoop.create_connection

    async def create_connection(
        loop: asyncio.BaseEventLoop,
        factory: Any,
        host: Any = None,
        port: Any = None,
        **options: Any,
    ) -> Any:
        return await honest(loop, factory, host, ports.get(port, port), **options)

    setattr(asyncio.BaseEventLoop, "create_connection", create_connection)  # noqa: B010 - mypy


async def serve(config: dict[str, Any]) -> None:
    # After the skew: nobody shall have seen the right time.
    from asynqpy import Server
    from tests.chaos.handlers import handlers
    from tests.chaos.journal import Journal

    journal = Journal(Path(config["folder"]), "worker")
    options = config.get("options", {})
    if (delay := config.get("retry_delay")) is not None:
        options["retry_delay"] = lambda *_: delay
    server = Server(
        config["redis"],
        concurrency=config["concurrency"],
        queues=config["queues"],
        shutdown_timeout=config["shutdown_timeout"],
        **options,
    )
    serving = asyncio.create_task(server.run(handlers(journal)))
    await asyncio.sleep(0)  # it obeys signals now
    journal.write("ready")
    await serving


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if config.get("skew"):
        skew_clock(config["skew"])
    take_detours({int(port): proxy for port, proxy in config.get("detours", {}).items()})
    if config.get("knocks"):
        note_knocks(Path(config["folder"]))
    with _errors(config.get("error_rate", 0.0)):
        asyncio.run(serve(config))


def _errors(rate: float) -> AbstractContextManager[object]:
    if not rate:
        return nullcontext()
    from tests.chaos.failing import failing_calls

    return failing_calls(rate, random.Random())


if __name__ == "__main__":
    main()
