"""Entry point: runs a command and turns its errors into one sentence and an exit code."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from llm4dsr_cli import parts, signals, streams
from llm4dsr_cli.errors import Llm4dsrError, OptionError, OutOfMemoryError
from llm4dsr_cli.text import printable
from llm4dsr_cli.version import __version__

FAILED, USAGE, BROKEN_PIPE = 1, 2, 141


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 usage, 3 some records were skipped, 129 the terminal was closed (SIGHUP), 130
    interrupted, 141 the reader of our output left early, 143 terminated.
    """
    streams.open_closed()
    signals.heed()
    try:
        code = _code()
    finally:
        parts.remove_all()  # an interrupt may have come between the opening of one and what would discard it
        signals.stop_heeding()
        streams.give_up_out()
    sys.exit(code)


def _code() -> int | None:
    try:
        return _run()
    except OptionError as error:
        return _fail(str(error), USAGE)
    except Llm4dsrError as error:
        return _fail(str(error), FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        return BROKEN_PIPE
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", signals.exit_code(signals.heard()))
    except MemoryError:
        return _fail(f"out of memory: {OutOfMemoryError.REMEDY}", FAILED)
    except OSError as error:
        # What touches a file explains itself; this is for the rest, such as a folder that may not be entered.
        reason = (error.strerror or str(error)).lower()
        if error.filename is None:
            return _fail(f"a stream or disk failed ({reason}): see that it can take what is written", FAILED)
        return _fail(f"{error.filename}: {reason}: {_remedy(str(error.filename))}", FAILED)


def _remedy(path: str) -> str:
    from llm4dsr_cli.cache import CACHE_REMEDY, cache_folder

    return CACHE_REMEDY if Path(path).is_relative_to(cache_folder()) else "give a path that can be used"


def _run() -> int | None:
    if sys.argv[1:] == ["--version"]:  # the commands take longer to load than all the rest
        streams.write_out(f"llm4dsr {__version__}\n")
        streams.flush_out()
        return None
    import typer

    from llm4dsr_cli.commands import Stopped, app
    from llm4dsr_cli.commands.command import UsageError, explained

    try:
        code: int | None = app(standalone_mode=False)
    except Stopped as stopped:
        raise stopped.cause from None
    except typer.Abort:  # an interrupt before any command runs
        raise KeyboardInterrupt from None
    except UsageError as error:
        raise explained(error) from None
    streams.flush_out()
    return code


def _fail(sentence: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"llm4dsr: {printable(sentence)}\n")
    return code


if __name__ == "__main__":
    main()
