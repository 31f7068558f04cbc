"""Whatever clients, workers, recoverers, people and the clock do in whatever order, with a crash or a lost answer after
any call: the queue stays sound, loses nothing and runs nothing again that had ended.

Without further ado some 2,000 steps are taken, always the same ones. ``ASYNQPY_MODEL_ROUNDS=50`` asks for so many
rounds of 50 histories (2,500 steps), which are new in each run. A history that fails is shown as it is; with
``ASYNQPY_MODEL_SHRINK=1`` it is made as short as can be, which takes minutes (``-o faulthandler_timeout=0``).
"""

from __future__ import annotations

import os
from importlib import resources

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from asynqpy.broker.scripts import load
from tests.model.fleet import Fleet
from tests.model.machine import AsynqpyFleet
from tests.model.mixed import MixedFleet
from tests.topologies.common import CommonRedis

_ROUNDS = int(os.environ.get("ASYNQPY_MODEL_ROUNDS", "0"))
_SHRINK = bool(os.environ.get("ASYNQPY_MODEL_SHRINK"))
_STEPS = 50


def _settings(histories: int) -> settings:
    return settings(
        max_examples=50 if _ROUNDS else histories,
        stateful_step_count=_STEPS,
        derandomize=not _ROUNDS,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink] if _SHRINK else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _run(machine: type[Fleet], redis: CommonRedis, histories: int) -> None:
    bound = type(machine.__name__, (machine,), {"redis_url": redis.url})
    run_state_machine_as_test(bound, settings=_settings(histories))


@pytest.fixture(scope="module")
def loaded(common_redis: CommonRedis) -> CommonRedis:
    """A Redis that knows all scripts. One that it is sent again runs after the rest of its pipeline, which is well, but
    happens once only and not in a replay.
    """
    for file in (resources.files("asynqpy.broker") / "lua").iterdir():
        if file.is_file():  # beside the room of scripts that no worker runs
            common_redis.ask("SCRIPT", "LOAD", load(file.name.removesuffix(".lua")).text)
    return common_redis


@pytest.mark.parametrize("round_", range(_ROUNDS or 1))
def test_a_fleet_of_asynqpy_keeps_its_queue_sound_at_every_step(
    loaded: CommonRedis, round_: int
) -> None:
    _run(AsynqpyFleet, loaded, 30)


@pytest.mark.parametrize("round_", range(_ROUNDS or 1))
def test_a_fleet_shared_with_go_loses_nothing_and_is_sound_once_reconciled(
    loaded: CommonRedis, round_: int
) -> None:
    _run(MixedFleet, loaded, 15)
