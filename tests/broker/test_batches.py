from __future__ import annotations

from asynqpy.broker.batches import MAX_BATCH, Batch, by_key, chunks, spread
from asynqpy.broker.scripts import Call
from asynqpy.errors import BrokerError


def batch(*places: int) -> Batch[str]:
    return Batch(Call((), list), places)


def test_chunks_are_full_but_for_the_last_one() -> None:
    assert list(chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_nothing_makes_no_chunk() -> None:
    assert list(chunks([])) == []


def test_items_are_gathered_by_key_and_keep_their_order() -> None:
    assert list(by_key(["a1", "b1", "a2", "b2", "a3"], lambda item: item[0])) == [
        ("a", [0, 2, 4]),
        ("b", [1, 3]),
    ]


def test_no_batch_is_larger_than_a_script_takes() -> None:
    cuts = list(by_key(range(2 * MAX_BATCH + 1), lambda _: "q"))
    assert [len(places) for _, places in cuts] == [MAX_BATCH, MAX_BATCH, 1]
    assert [place for _, places in cuts for place in places] == list(range(2 * MAX_BATCH + 1))


def test_answers_return_to_the_places_of_their_tasks() -> None:
    assert spread([batch(2, 0), batch(1)], [["c", "a"], ["b"]]) == ["a", "b", "c"]


def test_a_failed_call_answers_for_each_of_its_tasks() -> None:
    error = BrokerError("no")
    assert spread([batch(0, 2), batch(1)], [error, ["b"]]) == [error, "b", error]


def test_no_batches_give_no_answers() -> None:
    assert spread([], []) == []
