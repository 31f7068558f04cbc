from __future__ import annotations

import copy
import inspect

import pytest

from asynqpy import errors

CLASSES: dict[str, type[Exception]] = {
    name: cls
    for name, cls in vars(errors).items()
    if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str]:
    """Each error of the module's docstring and the one it hangs on."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if line.startswith("    ") and line.split():
            branch, _, rest = line.rpartition("── ")
            depth = len(branch)
            name = rest.split()[0]
            above = [(column, parent) for column, parent in above if column < depth]
            parents[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    return parents


def test_docstring_draws_the_tree_that_the_classes_form() -> None:
    assert drawn_tree() == {name: cls.__mro__[1].__name__ for name, cls in CLASSES.items()}


def test_every_error_says_what_it_means() -> None:
    assert [name for name, cls in CLASSES.items() if not vars(cls).get("__doc__")] == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_caught_as_an_asynq_error_with_its_text(name: str) -> None:
    with pytest.raises(errors.AsynqError, match=r"^what happened$"):
        raise CLASSES[name]("what happened")


def test_copy_of_an_error_with_attributes_has_them_too() -> None:
    error = errors.NotReplicatedError("late", task_id="a", queue="low", wanted=2, confirmed=1)
    twin = copy.copy(error)
    assert (str(twin), vars(twin)) == ("late", vars(error))
    assert vars(twin) == {"task_id": "a", "queue": "low", "wanted": 2, "confirmed": 1}


def test_bad_arguments_are_no_asynq_errors() -> None:
    assert not issubclass(errors.AsynqError, ValueError | TypeError)
