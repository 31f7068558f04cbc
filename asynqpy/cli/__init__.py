"""The command ``asynqpy``. Needs the extra ``cli``; this module alone does not."""

from __future__ import annotations

import sys

#: What the extra brings; ``click`` comes with older releases of typer.
_EXTRA = {"click", "rich", "typer"}


def main() -> None:
    """Run the command line in ``sys.argv`` and exit with its status; the console script's entry point."""
    try:
        from asynqpy.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit('the asynqpy command needs more packages: pip install "asynqpy[cli]"')
    app(prog_name="asynqpy")
