from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest

from asynqpy import random_ids
from asynqpy.client import Client
from asynqpy.random_ids import drop_spare, random_id
from asynqpy.task import Task

FORKING = """
import os
from asynqpy.random_ids import random_id

random_id()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, "".join(random_id() for _ in range(40)).encode())
    os._exit(0)
os.wait()
childs = os.read(read, 40 * 36).decode()
ours = {random_id() for _ in range(40)}
print(len(childs), len(ours & {childs[i : i + 36] for i in range(0, len(childs), 36)}))
"""


@pytest.fixture(autouse=True)
def nothing_drawn_ahead() -> Iterator[None]:
    drop_spare()
    yield
    drop_spare()


def test_ids_are_uuids_of_version_4() -> None:
    ids = [random_id() for _ in range(1_000)]
    parsed = [uuid.UUID(text) for text in ids]
    assert {(each.version, each.variant) for each in parsed} == {(4, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == ids
    assert len(set(ids)) == 1_000


def test_every_bit_but_those_of_version_and_variant_is_random() -> None:
    ones = zeros = 0
    for _ in range(200):
        number = uuid.UUID(random_id()).int
        ones, zeros = ones | number, zeros | ~number
    fixed = 0xF << 76 | 0b11 << 62
    assert ones & zeros & (2**128 - 1) == (2**128 - 1) ^ fixed


def test_ids_of_a_forked_process_are_others() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(40 * 36), "0"]


def test_threads_get_different_ids() -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([random_id() for _ in range(500)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for ids in found for text in ids}) == 2_000


async def test_a_client_that_waits_has_no_ids_drawn_ahead(redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("t"))
        assert random_ids._spare == []
        await client.enqueue_many([Task("t"), Task("t")])
        assert random_ids._spare == []
