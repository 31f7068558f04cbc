from __future__ import annotations

import pytest
from redis.crc import key_slot

from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.slots import SLOTS, SlotMap, key_of, slot_of, tag_within, units

ONE, OTHER = Endpoint("10.0.0.1", 7000), Endpoint("10.0.0.2", 7000)


@pytest.mark.parametrize(
    "key",
    ["k", "asynq:{default}:t:1", "{a}{b}", "a{}b{c}", "{", "}{a", "{a{b}c}", "{é}x", "ü{}"],
)
def test_a_key_has_the_slot_that_redis_gives_it(key: str) -> None:
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


def test_known_queues_have_the_slots_of_the_wire() -> None:
    slots = [slot_of(f"asynq:{{{queue}}}:pending") for queue in ("default", "critical", "low")]
    assert slots == [5718, 8090, 15214]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("EVALSHA", "sha", 2, "k", "l", "m"), "k"),
        (("EVAL", "return 1", 0), None),
        (("SCRIPT", "EXISTS", "sha"), None),
        (("WAIT", 1, 100), None),
        (("PING",), None),
    ],
)
def test_the_first_key_of_a_command_is_found(
    command: tuple[str | int, ...], key: str | None
) -> None:
    assert key_of(command) == key


def test_commands_without_a_key_go_with_the_one_before_or_the_first() -> None:
    a, b = ("SET", "{a}", 1), ("SET", "{b}", 1)
    without = ("WAIT", 1, 100)
    commands = [without, a, without, b, without]
    assert list(units(commands)) == [(slot_of("{a}"), range(3)), (slot_of("{b}"), range(3, 5))]
    assert list(units([without])) == [(None, range(1))]


def test_a_tag_is_found_for_a_single_slot() -> None:
    assert slot_of(f"x{{{tag_within(lambda slot: slot == 4711)}}}y") == 4711


def test_the_answer_of_a_node_becomes_a_map() -> None:
    answer = [
        [0, 99, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.3", 7000, b"id3", []]],
        [100, SLOTS - 1, [b"10.0.0.2", 7000, b"id2", []]],
    ]
    slot_map = SlotMap.parse(answer, ONE)
    assert (slot_map.owners[99], slot_map.owners[100]) == (ONE, OTHER)
    assert slot_map.is_whole
    assert slot_map.primaries == (ONE, OTHER)
    assert slot_map.replicas == {Endpoint("10.0.0.3", 7000)}


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_node_without_an_address_is_where_it_was_asked(host: bytes | None) -> None:
    slot_map = SlotMap.parse([[5, 5, [host, 7001, b"id"]]], ONE)
    assert slot_map.primaries == (Endpoint(ONE.host, 7001),)
    assert not slot_map.is_whole


def test_addresses_may_be_translated() -> None:
    slot_map = SlotMap.parse([[5, 5, [b"inside", 1, b"id"]]], ONE, lambda it: OTHER)
    assert slot_map.primaries == (OTHER,)


def test_a_slot_that_has_moved_has_another_owner() -> None:
    slot_map = SlotMap((ONE,) * SLOTS, frozenset([OTHER]))
    moved = slot_map.moved(7, OTHER)
    assert [moved.owners[slot] for slot in (6, 7, 8)] == [ONE, OTHER, ONE]
    assert moved.replicas == frozenset()
    assert slot_map.owners[7] == ONE
