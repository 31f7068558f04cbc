from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Protocol, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.broker.messages import (
    ERROR_TEXT_LIMIT,
    INT32_MAX,
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskMessage,
    TaskState,
    WorkerInfo,
    edited,
    wire_text,
)
from asynqpy.errors import MalformedMessageError


class Record(Protocol):
    def encode(self) -> bytes: ...

    @classmethod
    def decode(cls, data: bytes) -> Self: ...


TYPE, PAYLOAD = "email:welcome", b'{"user_id":42}'
ID = "d5b05d66-ff91-49a0-b35f-47962b1996be"
SERVER_ID = "5f1c9f4e-0d0a-4d1c-9a5e-1b2c3d4e5f60"
LOCK = "asynq:{critical}:unique:email:welcome:1181f89307fa271072c095747d5813cc"
V1_BYTES = (
    "0a0d656d61696c3a77656c636f6d65120e7b22757365725f6964223a34327d1a2464356230356436362d666639312d"
    "343961302d623335662d343739363262313939366265220764656661756c74281940880e"
)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def email(**fields: object) -> TaskMessage:
    known = {"type": TYPE, "id": ID, "payload": PAYLOAD, "max_retry": 25, "timeout": 1800}
    return TaskMessage(**(known | fields))  # type: ignore[arg-type]


V3 = email(
    id="t1",
    queue="critical",
    max_retry=5,
    retried=2,
    error_msg="boom: é",
    timeout=30,
    deadline=1_700_003_600,
    unique_key=LOCK,
    last_failed_at=1_700_000_000,
    retention=3600,
    completed_at=1_700_000_100,
    group_key="g1",
    headers={"k": "v"},
)
V5 = ServerInfo(
    host="host1",
    pid=1234,
    server_id=SERVER_ID,
    concurrency=10,
    queues={"default": 1},
    status="active",
    start_time=at(1_700_000_000.5),
    active_worker_count=1,
)
V6 = WorkerInfo(
    host="host1",
    pid=1234,
    server_id=SERVER_ID,
    task_id=ID,
    task_type=TYPE,
    task_payload=PAYLOAD,
    queue="default",
    start_time=at(1_700_000_001),
    deadline=at(1_700_001_801),
)
V7 = SchedulerEntry(
    id="2f6f1f0c-8f0e-4a70-9d0f-2b1f6f6f0c11",
    spec="@every 30s",
    task_type=TYPE,
    task_payload=PAYLOAD,
    enqueue_options=['Queue("low")', "MaxRetry(5)", "Timeout(30s)"],
    next_enqueue_time=at(1_700_000_030),
    prev_enqueue_time=None,
)

#: WIRE §12: written by Go. No map has more than one entry, so the bytes are the only ones.
GOLDEN: dict[str, tuple[Record, str]] = {
    "V1": (email(), V1_BYTES),
    "V2": (
        email(headers={"trace-id": "abc"}),
        V1_BYTES + "7a0f0a0874726163652d69641203616263",
    ),
    "V3": (
        V3,
        "0a0d656d61696c3a77656c636f6d65120e7b22757365725f6964223a34327d1a0274312208637269746963616c"
        "280530023a08626f6f6d3a20c3a9401e4890fecfaa0652466173796e713a7b637269746963616c7d3a756e6971"
        "75653a656d61696c3a77656c636f6d653a31313831663839333037666132373130373263303935373437643538"
        "313363635880e2cfaa0660901c68e4e2cfaa06720267317a060a016b120176",
    ),
    "V4": (
        TaskMessage(type="t", id="x", queue="q", timeout=-1),
        "0a01741a017822017140ffffffffffffffffff01",
    ),
    "V5": (
        V5,
        "0a05686f73743110d2091a2435663163396634652d306430612d346431632d396135652d316232633364346535"
        "663630200a2a0b0a0764656661756c7410013a06616374697665420c0880e2cfaa061080cab5ee014801",
    ),
    "V6": (
        V6,
        "0a05686f73743110d2091a2435663163396634652d306430612d346431632d396135652d316232633364346535"
        "663630222464356230356436362d666639312d343961302d623335662d3437393632623139393662652a0d656d"
        "61696c3a77656c636f6d65320e7b22757365725f6964223a34327d3a0764656661756c7442060881e2cfaa064a"
        "060889f0cfaa06",
    ),
    "V7": (
        V7,
        "0a2432663666316630632d386630652d346137302d396430662d326231663666366630633131120a4065766572"
        "79203330731a0d656d61696c3a77656c636f6d65220e7b22757365725f6964223a34327d2a0c51756575652822"
        "6c6f7722292a0b4d617852657472792835292a0c54696d656f757428333073293206089ee2cfaa063a0b088092"
        "b8c398feffffff01",
    ),
    "V8": (
        SchedulerEnqueueEvent(task_id=ID, enqueue_time=at(1_700_000_000.5)),
        "0a2464356230356436362d666639312d343961302d623335662d343739363262313939366265120c0880e2cfaa"
        "061080cab5ee01",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_record_is_written_byte_for_byte_as_go_writes_it(name: str) -> None:
    record, expected = GOLDEN[name]
    assert record.encode().hex() == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_a_record_that_go_wrote_is_read_back(name: str) -> None:
    expected, written = GOLDEN[name]
    assert type(expected).decode(bytes.fromhex(written)) == expected


def test_no_payload_and_an_empty_one_are_the_same_on_the_wire() -> None:
    assert TaskMessage(type="t", id="x").payload == b""
    assert TaskMessage.decode(TaskMessage(type="t", id="x", payload=b"").encode()).payload == b""


def test_many_headers_survive_and_are_written_the_same_way_each_time() -> None:
    headers = {f"key{n}": f"value{n}" for n in range(50)}
    task = email(headers=headers)
    assert TaskMessage.decode(task.encode()).headers == headers
    assert TaskMessage.decode(task.encode()).encode() == task.encode()


def test_fields_that_are_not_in_our_schema_are_ignored() -> None:
    from_the_future = bytes.fromhex(V1_BYTES) + bytes.fromhex("82010568656c6c6f")  # field 16
    assert TaskMessage.decode(from_the_future) == email()


MALFORMED = {
    "nothing": b"",
    "noise": b"\xff\xff\xff",
    "text": b"this is no message",
    "cut short": bytes.fromhex(V1_BYTES)[:-30],
    "bad UTF-8 in a string": b"\x0a\x02\xc3\x28" + bytes.fromhex(V1_BYTES),
    "no type": pb.TaskMessage(id="x", queue="q").SerializeToString(),
    "no id": pb.TaskMessage(type="t", queue="q").SerializeToString(),
    "no queue": pb.TaskMessage(type="t", id="x").SerializeToString(),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_bytes_that_are_no_task_are_refused(what: str) -> None:
    with pytest.raises(MalformedMessageError):
        TaskMessage.decode(MALFORMED[what])


@pytest.mark.parametrize("kind", [ServerInfo, WorkerInfo, SchedulerEntry, SchedulerEnqueueEvent])
def test_bytes_that_are_no_record_are_refused(kind: type[Record]) -> None:
    with pytest.raises(MalformedMessageError):
        kind.decode(b"\xff\xff\xff")


#: Reads lines of hexadecimal bytes, none of which is a task.
REFUSE_ALL = """
import sys
from google.protobuf.internal import api_implementation
from asynqpy.broker.messages import TaskMessage
from asynqpy.errors import MalformedMessageError

assert api_implementation.Type() == "python"
for line in sys.stdin:
    try:
        TaskMessage.decode(bytes.fromhex(line))
    except MalformedMessageError:
        continue
    sys.exit(line)
"""


def test_bytes_that_are_no_task_are_refused_by_protobuf_in_pure_python_too() -> None:
    """It raises other errors than the one in C."""
    program = [sys.executable, "-c", REFUSE_ALL]
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    lines = "".join(f"{data.hex()}\n" for data in MALFORMED.values())
    ended = subprocess.run(program, env=environment, input=lines, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_time_that_no_calendar_has_is_refused() -> None:
    """Milliseconds taken for seconds make one (WIRE T14)."""
    info = pb.ServerInfo(host="h")
    info.start_time.seconds = 1_700_000_000_000
    with pytest.raises(MalformedMessageError):
        ServerInfo.decode(info.SerializeToString())


@pytest.mark.parametrize("fields", [{"max_retry": INT32_MAX + 1}, {"timeout": 2**63}])
def test_a_number_too_large_for_its_field_is_refused_before_it_is_sent(
    fields: dict[str, int],
) -> None:
    with pytest.raises(ValueError, match="out of range"):
        email(**fields).encode()


def test_text_that_is_not_unicode_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError):
        email(headers={"k": "\ud800"}).encode()


def test_a_counted_failure_uses_up_a_retry_and_keeps_the_rest() -> None:
    failed = V3.failed("no luck", 1_700_000_500.9, counted=True)
    assert (failed.retried, failed.error_msg, failed.last_failed_at) == (
        3,
        "no luck",
        1_700_000_500,
    )
    assert (failed.headers, failed.payload, failed.max_retry) == ({"k": "v"}, PAYLOAD, 5)
    assert V3.retried == 2


def test_a_failure_that_is_not_counted_is_only_noted() -> None:
    failed = V3.failed("no luck", 1_700_000_500, counted=False)
    assert (failed.retried, failed.error_msg) == (2, "no luck")


def test_retries_stop_counting_at_the_limit_of_the_field() -> None:
    failed = email(retried=INT32_MAX).failed("no luck", 0, counted=True)
    assert TaskMessage.decode(failed.encode()).retried == INT32_MAX


def test_a_success_is_dated_in_whole_seconds() -> None:
    assert email().completed(1_700_000_100.7).completed_at == 1_700_000_100


@pytest.mark.parametrize(
    "error", ["lone \ud800 surrogate", b"\xc3(".decode("utf-8", "surrogateescape")]
)
def test_an_error_text_that_is_no_unicode_is_made_fit_for_the_wire(error: str) -> None:
    """Go refuses the whole message over it, and the task is never retried (B28)."""
    failed = email().failed(error, 0, counted=True)
    assert (
        TaskMessage.decode(failed.encode()).error_msg == error.encode("utf-8", "replace").decode()
    )


def test_an_error_text_is_bounded() -> None:
    assert wire_text("é" * 10_000) == "é" * ERROR_TEXT_LIMIT


@pytest.mark.parametrize("field", ["start_time", "deadline"])
def test_a_time_that_is_absent_reads_as_1970_as_in_go(field: str) -> None:
    assert getattr(WorkerInfo.decode(b""), field) == at(0)


def test_never_is_written_as_the_year_1_and_is_present() -> None:
    entry = pb.SchedulerEntry()
    entry.ParseFromString(V7.encode())
    assert entry.HasField("prev_enqueue_time")
    assert entry.prev_enqueue_time.seconds == -62_135_596_800


def test_times_keep_microseconds_whatever_their_zone() -> None:
    tokyo = datetime(2026, 5, 14, 9, 30, 0, 123_456, timezone(timedelta(hours=9)))
    event = SchedulerEnqueueEvent(task_id=ID, enqueue_time=tokyo)
    assert SchedulerEnqueueEvent.decode(event.encode()).enqueue_time == tokyo


@pytest.mark.parametrize("year", [1969, 2500])
def test_times_far_away_survive(year: int) -> None:
    instant = datetime(year, 7, 1, 12, 0, 0, 500_000, UTC)
    event = SchedulerEnqueueEvent(task_id=ID, enqueue_time=instant)
    assert SchedulerEnqueueEvent.decode(event.encode()).enqueue_time == instant


def test_the_states_are_the_strings_of_the_wire() -> None:
    states = "active pending scheduled retry archived completed aggregating"
    assert [str(state) for state in TaskState] == states.split()


# Encoded in parts.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.one_of(st.uuids().map(str), TEXTS, st.integers(100, 200).map("i".__mul__))
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([1, 126, 127, 128, 129, 16_383, 16_384, 2_097_152]).map(bytes),
)
SELDOM = st.fixed_dictionaries(
    {},
    optional={
        "retried": st.integers(0, INT32_MAX),
        "error_msg": TEXTS,
        "deadline": st.integers(0, 2**40),
        "unique_key": TEXTS,
        "retention": st.integers(0, 2**40),
        "group_key": TEXTS,
        "headers": st.dictionaries(TEXTS, TEXTS, max_size=2),
    },
)
MESSAGES = st.builds(
    lambda seldom, **fields: TaskMessage(**seldom, **fields),
    SELDOM | st.just({}),
    type=TEXTS,
    id=IDS,
    payload=PAYLOADS,
    queue=st.one_of(st.sampled_from(["default", "low"]), TEXTS),
    max_retry=st.integers(0, INT32_MAX),
    timeout=st.integers(0, 2**40),
)


@given(MESSAGES)
def test_bytes_that_are_put_together_are_those_of_protobuf(message: TaskMessage) -> None:
    for _ in range(2):  # the second time its parts are known
        assert message.encode() == message.encode_whole()


@pytest.mark.parametrize("field", ["type", "id", "queue"])
def test_text_that_is_no_utf8_is_refused_wherever_it_stands(field: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        email(**{field: "\ud800"}).encode()


# Edited messages.


def test_edited_message_has_the_changes_and_what_it_had_besides() -> None:
    whole = TaskMessage(type="t", id="t1", payload=b"old", retried=3, headers={"a": "1", "b": "2"})
    unknown = b"\x9a\x06\x05later"  # field 99
    changes = {"payload": b"new", "headers": {"c": "3"}, "retried": 0}
    data = edited(whole.encode() + unknown, changes)
    assert unknown in data
    assert TaskMessage.decode(data) == TaskMessage(
        type="t", id="t1", payload=b"new", headers={"c": "3"}
    )


def test_message_that_is_edited_in_nothing_stays_the_same_bytes() -> None:
    whole = TaskMessage(type="t", id="t1", payload=b"p", headers={"a": "1", "b": "2"})
    assert edited(whole.encode(), {}) == whole.encode()


@pytest.mark.parametrize("data", [b"", b"\xff\xff"])
def test_what_is_no_task_is_not_edited(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        edited(data, {"payload": b"new"})
