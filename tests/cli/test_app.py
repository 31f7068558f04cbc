from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner, Result

import asynqpy
from asynqpy.cli.app import app
from tests.redis_process import free_port, start_redis


def run(*arguments: str, redis_url: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), env={"REDIS_URL": redis_url or None})


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def test_version_is_that_of_the_package() -> None:
    assert run("version").output == f"asynqpy {asynqpy.__version__}\n"


def test_help_lists_the_commands() -> None:
    output = run("--help").output
    assert all(re.search(rf"\b{name} +\w", output) for name in ("demo", "ping", "version"))


def test_unknown_command_is_a_usage_error() -> None:
    assert run("pong").exit_code == 2


@pytest.mark.parametrize("option", ["-u", "--uri"])
def test_ping_tells_how_soon_redis_answered(redis_url: str, option: str) -> None:
    result = run("ping", option, redis_url)
    assert result.exit_code == 0
    assert re.fullmatch(r"PONG after \d+\.\d ms", only_line(result.output))


def test_ping_reads_the_url_from_the_environment(redis_url: str) -> None:
    assert run("ping", redis_url=redis_url).exit_code == 0


def test_ping_option_overrides_the_environment(redis_url: str) -> None:
    result = run("ping", "-u", redis_url, redis_url=f"redis://127.0.0.1:{free_port()}")
    assert result.exit_code == 0


def test_ping_of_an_unreachable_redis_names_the_address() -> None:
    port = free_port()
    result = run("ping", "-u", f"redis://127.0.0.1:{port}/0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"127.0.0.1:{port}" in only_line(result.stderr)


def test_ping_with_a_wrong_password_says_so_and_keeps_it_secret() -> None:
    with start_redis("--requirepass", "right-one") as server:
        result = run("ping", "-u", f"redis://:wrong-one@{server.address}/0")
    assert result.exit_code == 1
    line = only_line(result.stderr)
    assert "password" in line
    assert "-one" not in line


def test_ping_of_no_url_says_how_to_write_one() -> None:
    result = run("ping", "-u", "nonsense")
    assert result.exit_code == 1
    assert "redis://" in only_line(result.stderr)
