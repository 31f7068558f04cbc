"""Random ids of tasks."""

from __future__ import annotations

import os

#: Ids of which the randomness is drawn at once: asking the system takes longer than all the rest.
_SUPPLY = 32

_LENGTH = 16

_spare: list[str] = []

#: The digit that has the variant: its two low bits are random, the two high ones are 0b10.
_VARIANTS = {digit: "89ab"[int(digit, 16) & 0b11] for digit in "0123456789abcdef"}


def random_id() -> str:
    """A UUID of version 4 (RFC 4122 §4.4), for a fraction of what ``uuid.uuid4`` takes.

    Whoever makes ids calls ``drop_spare`` before it awaits anything.
    """
    try:
        text = _spare.pop()
    except IndexError:
        text = _draw()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"


def drop_spare() -> None:
    """Forget what has been drawn ahead, lest it is there on both sides of a copy.

    A process that forks forgets it by itself. One in a virtual machine that is copied cannot know; but then it waits,
    and has nothing left.
    """
    _spare.clear()


def _draw() -> str:
    text = os.urandom(_SUPPLY * _LENGTH).hex()
    first, *rest = [text[i : i + 2 * _LENGTH] for i in range(0, len(text), 2 * _LENGTH)]
    _spare.extend(rest)
    return first


os.register_at_fork(after_in_child=drop_spare)
