"""``python -m asynqpy`` is the command ``asynqpy``."""

from __future__ import annotations

from asynqpy.cli import main

if __name__ == "__main__":
    main()
