"""Entry point: runs a command and turns its errors into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from llm4dsr_cli.errors import Llm4dsrError, OptionError, OutputError

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 130, 141, 143


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 usage, 3 some records were skipped, 130 interrupted, 141 the reader of our output
    left early, 143 terminated.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run()
    except OptionError as error:
        code = _fail(str(error), USAGE)
    except Llm4dsrError as error:
        code = _fail(str(error), FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        code = BROKEN_PIPE
    except KeyboardInterrupt as error:
        code = _fail(str(error) or "interrupted", INTERRUPTED)
    except OSError as error:
        # What touches a file explains itself; this is for the rest, such as a folder that may not be entered.
        if error.filename is None or error.strerror is None:
            raise
        code = _fail(f"{error.filename}: {error.strerror.lower()}: give a path that can be used", FAILED)
    try:
        sys.stdout.flush()
    except OSError:
        # It is told already. Python would fail to flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _terminate(*_: object) -> NoReturn:
    """Leave as an interrupt does, so that nothing half-written stays behind."""
    raise SystemExit(TERMINATED)


def _run() -> int | None:
    from llm4dsr_cli.commands import Stopped, app
    from llm4dsr_cli.commands.command import UsageError, explained

    try:
        code: int | None = app(standalone_mode=False)
    except Stopped as stopped:
        raise stopped.cause from None
    except UsageError as error:
        raise explained(error) from None
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(str(error.strerror).lower(), where="stdout", remedy="free some space") from error
    return code


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"llm4dsr: {sentence}\n")
    return code


if __name__ == "__main__":
    main()
