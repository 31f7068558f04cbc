from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack

import pytest
from redis.asyncio import Redis

from asynqpy.embedded import find_server
from tests.fake_clock import FakeClock
from tests.raw_redis import raw_client
from tests.redis_process import RedisProcess, start_redis
from tests.replicas import Replicas, start_replicas
from tests.topologies import common
from tests.topologies.common import CommonRedis
from tests.topologies.tls import Certificates, make_certificates

#: Why tests were kept on a single server, and how many of them, where the others had another shape.
kept_single: Counter[str] = Counter()
KEPT_SINGLE = "kept on a single server"


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it for what runs in the background, and what tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("asyncio").addFilter(_is_no_pace)
    until_end = ExitStack()
    config.add_cleanup(until_end.close)
    try:
        common.shape()
        until_end.enter_context(common.engine_on_path())
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def _is_no_pace(record: logging.LogRecord) -> bool:
    """That a step of a loop took long tells how busy the machine is, and nothing of what is tested."""
    return not str(record.msg).startswith("Executing %s took")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lone surrogates, which some tests have logged, do not travel between the processes that share the tests."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "setup":
        kept_single.update(str(why) for name, why in report.user_properties if name == KEPT_SINGLE)


def pytest_report_header() -> str:
    return f"redis: {common.shape()}, by {find_server()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if kept_single:
        terminalreporter.section(f"on a single server: {kept_single.total()} tests")
        for reason, count in kept_single.most_common():
            terminalreporter.line(f"{count:4} {reason}")


@pytest.fixture(scope="session")
def single_redis() -> Iterator[RedisProcess]:
    with start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def common_redis(request: pytest.FixtureRequest) -> Iterator[CommonRedis]:
    """A single server, or what ``ASYNQPY_TEST_REDIS`` asks for instead."""
    if common.is_one_server(plain=True):
        yield request.getfixturevalue("single_redis")
    else:
        with common.start_common() as redis:
            yield redis


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> CommonRedis:
    """The common Redis; one server for tests that are marked so."""
    marker = request.node.get_closest_marker("single_redis")
    is_common = marker is None or common.is_one_server(marker.kwargs.get("plain", False))
    if marker is not None and not is_common:
        request.node.user_properties.append((KEPT_SINGLE, marker.args[0]))
    server: CommonRedis = request.getfixturevalue("common_redis" if is_common else "single_redis")
    return server


@pytest.fixture
def redis_url(redis_server: CommonRedis) -> str:
    """The URL of a Redis that is empty, of scripts too."""
    redis_server.ask("FLUSHALL")
    redis_server.ask("SCRIPT FLUSH")
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the same Redis that shows what is there: bytes, in RESP2."""
    async with raw_client(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def started_replicas() -> Iterator[Replicas]:
    with start_replicas() as replicas:
        yield replicas


@pytest.fixture
def replicas(started_replicas: Replicas) -> Iterator[Replicas]:
    """A master and its replicas, empty and in step."""
    started_replicas.empty()
    yield started_replicas
    started_replicas.thaw()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """To be copied by whoever changes them."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What an authority has signed that knows nothing of the first, nor the first of it."""
    return make_certificates(tmp_path_factory.mktemp("others"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
