from __future__ import annotations

import pytest
from redis.crc import key_slot

from asynqpy.broker import keys

#: WIRE §1: each key as Go spells it, for the queue ``low``.
OF_A_QUEUE = {
    "asynq:{low}:t:": keys.task_prefix("low"),
    "asynq:{low}:pending": keys.pending("low"),
    "asynq:{low}:active": keys.active("low"),
    "asynq:{low}:lease": keys.lease("low"),
    "asynq:{low}:scheduled": keys.scheduled("low"),
    "asynq:{low}:retry": keys.retry("low"),
    "asynq:{low}:archived": keys.archived("low"),
    "asynq:{low}:completed": keys.completed("low"),
    "asynq:{low}:paused": keys.paused("low"),
    "asynq:{low}:groups": keys.groups("low"),
    "asynq:{low}:g:": keys.group_prefix("low"),
    "asynq:{low}:processed": keys.processed("low"),
    "asynq:{low}:failed": keys.failed("low"),
    "asynq:{low}:processed:2026-05-14": keys.processed_on("low", "2026-05-14"),
    "asynq:{low}:failed:2026-05-14": keys.failed_on("low", "2026-05-14"),
    "asynq:{low}:unique:": keys.unique_prefix("low"),
    "asynq:{low}:unique:t:": keys.unique("low", "t", None),
    "asynq:{low}:aggregation_sets": keys.aggregation_sets("low"),
    "asynqpy:{low}:reconciler": keys.reconciler("low"),
    "asynqpy:{low}:quarantine": keys.quarantine("low"),
    "asynqpy:{low}:quarantine:": keys.quarantine_prefix("low"),
}

GLOBAL = {
    "asynq:queues": keys.QUEUES,
    "asynq:servers": keys.SERVERS,
    "asynq:workers": keys.WORKERS,
    "asynq:cancel": keys.CANCEL_CHANNEL,
    "asynq:servers:{host1:1234:abc}": keys.server("host1:1234:abc"),
    "asynq:workers:{host1:1234:abc}": keys.workers("host1:1234:abc"),
}

PAYLOAD = b'{"user_id":42}'

#: WIRE §12, V9.
LOCKS = [
    ("default", None, "asynq:{default}:unique:email:welcome:"),
    ("default", b"", "asynq:{default}:unique:email:welcome:d41d8cd98f00b204e9800998ecf8427e"),
    ("default", PAYLOAD, "asynq:{default}:unique:email:welcome:1181f89307fa271072c095747d5813cc"),
    ("critical", PAYLOAD, "asynq:{critical}:unique:email:welcome:1181f89307fa271072c095747d5813cc"),
]


@pytest.mark.parametrize(("expected", "key"), (OF_A_QUEUE | GLOBAL).items())
def test_key_is_spelt_as_go_spells_it(expected: str, key: str) -> None:
    assert key == expected


@pytest.mark.parametrize(("queue", "payload", "expected"), LOCKS)
def test_lock_key_is_the_golden_one(queue: str, payload: bytes | None, expected: str) -> None:
    assert keys.unique(queue, "email:welcome", payload) == expected


@pytest.mark.parametrize(("queue", "slot"), [("default", 5718), ("critical", 8090), ("low", 15214)])
def test_all_keys_of_a_queue_share_the_slot_that_go_computes(queue: str, slot: int) -> None:
    names = [name.replace("{low}", f"{{{queue}}}") for name in OF_A_QUEUE]
    assert {key_slot(name.encode()) for name in names} == {slot}


def test_the_two_keys_of_a_server_share_a_slot() -> None:
    pair = keys.server("h:1:s"), keys.workers("h:1:s")
    assert len({key_slot(name.encode()) for name in pair}) == 1


def test_pattern_takes_the_name_of_a_queue_as_it_is() -> None:
    assert keys.pattern("t:") == b"asynq:{*}:t:*"
    assert keys.pattern("", "a*[b]?") == rb"asynq:{a\*\[b\]\?}:*"


def test_key_is_taken_apart() -> None:
    assert keys.parse(b"asynq:{low}:t:a:b") == ("low", "t", b"a:b")
    assert keys.parse(b"asynq:{low}:pending") == ("low", "pending", b"")
    assert keys.parse(b"asynq:{low}:g:x}:y") == ("low", "g", b"x}:y")
    for other in (b"asynq:queues", b"asynq:{}:t:x", b"asynq:{low", b"asynq:{\xff}:pending", b"t"):
        assert keys.parse(other) is None
