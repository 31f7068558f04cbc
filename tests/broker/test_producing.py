from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker import producing as producing_module
from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.producing import NewTask, enqueue_batches, wait_call
from asynqpy.errors import BrokerError, DuplicateTaskError, TaskIdConflictError
from tests import redis_state as state
from tests.broker.factories import LOCK, grouped_task, new_task, scheduled_task
from tests.broker.test_messages import ID, PAYLOAD, V1_BYTES
from tests.fake_clock import FakeClock

GO_LOCK = "asynq:{default}:unique:email:welcome:1181f89307fa271072c095747d5813cc"

#: WIRE §12, V10 c: written by Go.
GROUPED_BYTES = (
    "0a01741a0161220764656661756c74281940880e52196173796e713a7b64656661756c747d3a756e697175653a743a"
    "720267317a060a016b120176"
)


def email(task_id: str, unique_key: str = "") -> TaskMessage:
    return TaskMessage(
        type="email:welcome",
        id=task_id,
        payload=PAYLOAD,
        max_retry=25,
        timeout=1800,
        unique_key=unique_key,
    )


async def test_a_pending_task_is_stored_as_go_stores_it(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    assert await broker.enqueue([NewTask(email(ID))]) == [None]
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:pending": [ID.encode()],
        f"asynq:{{default}}:t:{ID}": {
            b"msg": bytes.fromhex(V1_BYTES),
            b"state": b"pending",
            b"pending_since": str(clock.now_ns()).encode(),
        },
    }
    assert len(str(clock.now_ns())) == 19


async def test_a_unique_scheduled_task_is_stored_as_go_stores_it(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    due = int(clock.now()) + 100
    task = NewTask(email("a", GO_LOCK), TaskState.SCHEDULED, due, lock_ttl=110)
    assert await broker.enqueue([task]) == [None]
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:scheduled": {b"a": due},
        GO_LOCK: b"a",
        "asynq:{default}:t:a": {
            b"msg": email("a", GO_LOCK).encode(),
            b"state": b"scheduled",
            b"unique_key": GO_LOCK.encode(),
        },
    }
    assert 100 < await state.ask(redis, "TTL", GO_LOCK) <= 110


async def test_a_unique_grouped_task_is_stored_as_go_stores_it_and_names_its_lock(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    lock, now = "asynq:{default}:unique:t:", int(clock.now())
    message = TaskMessage(
        type="t",
        id="a",
        max_retry=25,
        timeout=1800,
        unique_key=lock,
        group_key="g1",
        headers={"k": "v"},
    )
    assert await broker.enqueue([NewTask(message, TaskState.AGGREGATING, now, 10)]) == [None]
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:groups": {b"g1"},
        "asynq:{default}:g:g1": {b"a": now},
        lock: b"a",
        "asynq:{default}:t:a": {
            b"msg": bytes.fromhex(GROUPED_BYTES),
            b"state": b"aggregating",
            b"group": b"g1",
            b"unique_key": lock.encode(),  # Go forgets it and then leaks the lock (B20)
        },
    }


async def test_scores_of_containers_are_whole_numbers(broker: Broker, redis: Redis) -> None:
    """A fraction breaks the page of asynqmon that shows it (WIRE T2)."""
    await broker.enqueue([scheduled_task("a", at=100), grouped_task("b", group="g", at=200)])
    assert await state.ask(redis, "ZSCORE", state.key("default", "scheduled"), "a") == 100
    assert await state.ask(redis, "ZSCORE", state.key("default", "g:g"), "b") == 200


async def test_tasks_run_in_the_order_in_which_they_came(broker: Broker, redis: Redis) -> None:
    ids = [f"t{n}" for n in range(MAX_BATCH + 3)]
    assert await broker.enqueue([new_task(i) for i in ids]) == [None] * len(ids)
    assert await state.listed(redis, "pending") == ids


def sized(task_id: str, size: int, token: str = "") -> NewTask:
    return NewTask(TaskMessage(type="t", id=task_id, payload=b"x" * size), token=token)


def sizes(*tasks: NewTask) -> list[list[int]]:
    """Places of the tasks of each call."""
    return [list(batch.places) for batch in enqueue_batches(tasks, 0)]


def test_large_messages_travel_in_more_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producing_module, "_MAX_BYTES", 10_000)
    small, large, huge = sized("s", 3_000), sized("l", 6_000), sized("h", 20_000)
    assert sizes(small, small, small) == [[0, 1, 2]]
    assert sizes(small, large, small, small) == [[0, 1], [2, 3]]
    assert sizes(huge) == [[0]]
    assert sizes(small, huge, small, huge, huge) == [[0], [1], [2], [3], [4]]
    assert sizes() == []


def test_call_that_is_full_to_the_byte_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sized("s", 3_000)
    monkeypatch.setattr(producing_module, "_MAX_BYTES", 2 * len(task.message.encode()))
    assert sizes(task, task, task, task, task) == [[0, 1], [2, 3], [4]]


async def test_tasks_of_megabytes_keep_their_order_and_get_their_own_answers(
    broker: Broker, redis: Redis
) -> None:
    await broker.enqueue([sized("t3", 1, token="taken")])
    tasks = [sized(f"t{n}", 1_500_000, token=f"token:{n}") for n in range(9)]
    assert len(sizes(*tasks)) == 5
    answers = await broker.enqueue(tasks)
    assert [n for n, answer in enumerate(answers) if answer is not None] == [3]
    assert await state.listed(redis, "pending") == [f"t{n}" for n in (3, 0, 1, 2, 4, 5, 6, 7, 8)]


async def test_no_tasks_are_enqueued_without_a_word(broker: Broker, redis: Redis) -> None:
    assert await broker.enqueue([]) == []
    assert await state.dump(redis) == {}


def mixed_batch() -> list[NewTask]:
    """Every third id comes twice, every fifth task wants the same lock; three queues, three states."""
    tasks: list[NewTask] = []
    for n in range(1_203):
        queue, task_id, token = f"q{n % 2}", f"t{n - 1 if n % 3 == 1 else n}", f"token:{n}"
        common: dict[str, Any] = {"queue": queue, "token": token}
        if n % 5 == 0:
            lock = f"asynq:{{{queue}}}:unique:report:"
            tasks.append(new_task(task_id, lock=lock, **common))
        elif n % 7 == 0:
            tasks.append(scheduled_task(task_id, at=4_000_000_000, **common))
        elif n % 11 == 0:
            tasks.append(grouped_task(task_id, group=f"g{n % 2}", at=1_700_000_000, **common))
        else:
            tasks.append(new_task(f"t{n - 2}" if n % 9 == 8 else task_id, **common))
    return tasks


async def test_each_task_of_a_large_mixed_batch_gets_its_own_answer_in_its_place(
    broker: Broker, redis: Redis
) -> None:
    tasks = mixed_batch()
    answers = await broker.enqueue(tasks)
    refusals = {type(answer) for answer in answers}
    assert refusals == {type(None), DuplicateTaskError, TaskIdConflictError}
    stored = await state.dump(redis)
    for task, answer in zip(tasks, answers, strict=True):
        record = stored.get(state.task_key(task.message.queue, task.message.id), {})
        assert (record.get(b"enqueue_token") == task.token.encode()) == (answer is None)
        if answer is not None:
            assert repr(task.message.queue) in str(answer)
    assert await state.invariants(redis, "q0") == []
    assert await state.invariants(redis, "q1") == []


async def test_a_repeated_call_answers_the_same_and_changes_nothing(
    broker: Broker, other_broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """Its first reply may have been lost (B10); the tokens tell that from a conflict."""
    tasks = mixed_batch()
    answers = await broker.enqueue(tasks)
    before = await state.dump(redis)
    clock.advance(1)
    again = await other_broker.enqueue(tasks)
    assert [type(answer) for answer in again] == [type(answer) for answer in answers]
    assert await state.dump(redis) == before


@pytest.mark.single_redis("its statistics are those of one node")
async def test_a_repeated_call_writes_what_is_there_for_who_waits_for_replicas(
    broker: Broker, redis: Redis
) -> None:
    """``WAIT`` waits for the last write of a connection, and on a new one for nothing."""
    tasks = [new_task("a", token="mine"), new_task("b", token="")]
    await broker.enqueue(tasks)
    await state.ask(redis, "CONFIG", "RESETSTAT")
    assert await broker.enqueue(tasks) == [None, None]
    assert (await redis.info("commandstats"))["cmdstat_hset"]["calls"] == 2


async def test_a_repeated_call_leaves_a_key_of_another_type_alone(
    broker: Broker, redis: Redis
) -> None:
    await state.ask(redis, "SET", state.task_key("default", "a"), "noise")
    assert await broker.enqueue([new_task("a", token="")]) == [None]
    assert await state.ask(redis, "GET", state.task_key("default", "a")) == b"noise"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.0, 1_000), (0.25, 250), (0.0001, 1)],
)
def test_a_wait_is_never_one_without_an_end(seconds: float, words: int) -> None:
    """Redis takes 0 ms for no limit."""
    assert wait_call(2, seconds).words == ("WAIT", 2, words)


async def test_an_id_made_for_one_call_needs_no_token_to_be_repeated(
    broker: Broker, redis: Redis
) -> None:
    assert await broker.enqueue([new_task(lock=LOCK)]) == [None]
    before = await state.dump(redis)
    assert await broker.enqueue([new_task(lock=LOCK)]) == [None]
    assert await state.dump(redis) == before


async def test_another_attempt_under_the_same_id_is_a_conflict(broker: Broker) -> None:
    await broker.enqueue([new_task(token="mine")])
    (answer,) = await broker.enqueue([new_task(token="yours")])
    assert isinstance(answer, TaskIdConflictError)
    assert str(answer) == "queue 'default' already has a task with the id 't1'"


async def seed_in(redis: Redis, container: TaskState, task_id: str) -> None:
    task = state.message(task_id, group_key="g" if container is TaskState.AGGREGATING else "")
    match container:
        case TaskState.PENDING:
            await state.seed_pending(redis, task)
        case TaskState.ACTIVE:
            await state.seed_active(redis, task, lease=4_000_000_000)
        case TaskState.SCHEDULED:
            await state.seed_scheduled(redis, task, at=4_000_000_000)
        case TaskState.RETRY:
            await state.seed_retry(redis, task, at=4_000_000_000)
        case TaskState.ARCHIVED:
            await state.seed_archived(redis, task, at=1_700_000_000)
        case TaskState.COMPLETED:
            await state.seed_completed(redis, task, until=4_000_000_000)
        case TaskState.AGGREGATING:
            await state.seed_aggregating(redis, task, at=1_700_000_000)


@pytest.mark.parametrize("container", list(TaskState))
async def test_an_id_conflicts_in_every_state_and_the_refused_task_leaves_no_trace(
    broker: Broker, redis: Redis, container: TaskState
) -> None:
    """Go sets the lock first and forgets it there (B19)."""
    await seed_in(redis, container, "t1")
    before = await state.dump(redis)
    refused = [
        new_task(token="x", lock=LOCK),
        scheduled_task(at=4_000_000_000, token="x", lock=LOCK),
        grouped_task(group="other", at=1, token="x", lock=LOCK),
    ]
    answers = await broker.enqueue(refused)
    assert [type(answer) for answer in answers] == [TaskIdConflictError] * 3
    assert await state.dump(redis) == before


async def test_a_held_lock_refuses_a_task_without_a_trace(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, state.message("holder", unique_key=LOCK))
    before = await state.dump(redis)
    (answer,) = await broker.enqueue([new_task("other", lock=LOCK)])
    assert isinstance(answer, DuplicateTaskError)
    assert str(answer) == "queue 'default' already has a 'email:welcome' task with this payload"
    assert await state.dump(redis) == before


async def test_a_lock_that_was_leaked_is_taken_over(broker: Broker, redis: Redis) -> None:
    await state.ask(redis, "SET", LOCK, "gone", "EX", 3600)
    assert await broker.enqueue([new_task("other", lock=LOCK, lock_ttl=60)]) == [None]
    assert await state.ask(redis, "GET", LOCK) == b"other"
    assert await state.ask(redis, "TTL", LOCK) <= 60


async def test_a_lock_of_the_wrong_type_locks_nothing(broker: Broker, redis: Redis) -> None:
    await state.ask(redis, "LPUSH", LOCK, "noise")
    assert await broker.enqueue([new_task("a", lock=LOCK), new_task("b")]) == [None, None]
    assert await state.ask(redis, "GET", LOCK) == b"a"


async def test_an_id_whose_key_holds_another_type_is_taken(broker: Broker, redis: Redis) -> None:
    await state.ask(redis, "SET", state.task_key("default", "a"), "noise")
    answers = await broker.enqueue([new_task("a", token="x"), new_task("b", token="y")])
    assert [type(answer) for answer in answers] == [TaskIdConflictError, type(None)]
    assert await state.ask(redis, "GET", state.task_key("default", "a")) == b"noise"


@pytest.mark.parametrize(
    ("container", "task"),
    [
        ("pending", new_task("a", lock=LOCK)),
        ("scheduled", scheduled_task("a", at=4_000_000_000, lock=LOCK)),
        ("g:g1", grouped_task("a", group="g1", at=1, lock=LOCK)),
        ("groups", grouped_task("a", group="g1", at=1, lock=LOCK)),
    ],
)
async def test_a_container_of_the_wrong_type_stores_nothing_and_spares_other_queues(
    broker: Broker, redis: Redis, container: str, task: NewTask
) -> None:
    await state.ask(redis, "SET", state.key("default", container), "noise")
    answers = await broker.enqueue([task, new_task("b", queue="low")])
    assert isinstance(answers[0], BrokerError)
    assert "WRONGTYPE" in str(answers[0])
    assert answers[1] is None
    left = await state.dump(redis, "asynq:{default}:*")
    assert left == {state.key("default", container): b"noise"}


async def test_what_cannot_be_encoded_is_refused_before_anything_is_sent(
    broker: Broker, redis: Redis
) -> None:
    with pytest.raises(ValueError):
        await broker.enqueue([new_task("a"), new_task("b", max_retry=2**31)])
    assert await state.dump(redis) == {}


async def test_a_delayed_task_joins_its_group_when_it_is_due(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """In Go it has forgotten its group by then, and runs by itself (B24)."""
    due = int(clock.now()) + 10
    task = new_task("a", state=TaskState.SCHEDULED, score=due, group_key="g1")
    assert await broker.enqueue([task]) == [None]
    assert await state.invariants(redis) == []
    clock.advance(10)
    await broker.forward(["default"])
    assert await state.scores(redis, "g:g1") == {"a": due}
    assert await state.ask(redis, "SMEMBERS", state.key("default", "groups")) == {b"g1"}
    assert await state.states(redis, "a") == ["aggregating"]
    assert await state.invariants(redis) == []


async def test_a_lock_whose_holder_knows_nothing_of_it_is_taken_over(
    broker: Broker, redis: Redis
) -> None:
    """Go sets it before it finds that the id is taken, and leaves it to its TTL (B19)."""
    await state.seed_pending(redis, state.message("t1"))
    await state.ask(redis, "SET", LOCK, "t1", "EX", 60)
    assert await broker.enqueue([new_task("t2", lock=LOCK)]) == [None]
    assert await state.ask(redis, "GET", LOCK) == b"t2"


async def test_a_lock_that_only_the_message_of_its_holder_names_is_respected(
    broker: Broker, redis: Redis
) -> None:
    """Go does not write the field for tasks of groups (B20)."""
    await state.seed_pending(redis, state.message("t1", unique_key=LOCK))
    await state.ask(redis, "HDEL", state.task_key("default", "t1"), "unique_key")
    (answer,) = await broker.enqueue([new_task("t2", lock=LOCK)])
    assert isinstance(answer, DuplicateTaskError)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([new_task("a", token=""), new_task("b", token="")], 2),
        ([new_task("a", token=""), new_task("b", token="1")], 6),
        ([new_task("a", token=""), new_task("b", token="", lock=LOCK)], 6),
        ([scheduled_task("a", at=0, token="")], 6),
        ([grouped_task("a", group="g1", at=0, token="")], 6),
    ],
    ids=["plain", "token", "lock", "scheduled", "grouped"],
)
async def test_words_that_no_task_of_a_call_has_are_left_out(
    broker: Broker, redis: Redis, tasks: list[NewTask], words: int
) -> None:
    (batch,) = enqueue_batches(tasks, 1)
    script_words = batch.call.words[5:]  # after EVALSHA, digest, number of keys and two keys
    assert (script_words[4], len(script_words)) == (words, 5 + words * len(tasks))
    assert await broker.enqueue(tasks) == [None] * len(tasks)
    assert await state.invariants(redis) == []
