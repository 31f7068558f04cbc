from __future__ import annotations

import signal
import socket
import subprocess
import sys

import httpx
import pytest

from asynqpy.cli.metrics_command import serve_metrics

PROGRAM = "import sys; from asynqpy.cli.metrics_command import serve_metrics as s; sys.exit(s(sys.argv[1], port=0))"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(redis_url: str, signum: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, redis_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            assert "asynqpy_redis_up 1.0" in httpx.get(url).text
            process.send_signal(signum)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_port_in_use_is_one_line(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve_metrics(redis_url, port=taken.getsockname()[1]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("asynqpy: cannot listen on 127.0.0.1:")
    assert errors.count("\n") == 1
