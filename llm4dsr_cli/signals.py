"""Signals: the first one ends a run tidily, a second one at once, and none is lost in a callback of C code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from llm4dsr_cli import parts

# What asks a program to end. Windows has no SIGHUP.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# What may have a handler that raises; timeouts of a caller of the library are made of SIGALRM.
_HELD = _ENDING + [getattr(signal, name) for name in ("SIGALRM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
_SHOW_CURSOR = "\x1b[?25h"

_heeding = False  # the process is a command's
_heard: int | None = None  # the ending signal that came
_hook_before = sys.unraisablehook


def exit_code(number: int) -> int:
    """What a run that a signal ended exits with: 128 and the signal's number, as shells have it."""
    return 128 + number


def heard() -> int:
    """The signal that asked this process to end; Ctrl-C's where none came here."""
    return signal.SIGINT if _heard is None else _heard


def heed() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) end this process, its outputs as they were.

    The first raises KeyboardInterrupt in the main thread, so that all is cleaned up. A second one, or a first whose
    exception Python drops (in a ``__del__``, say), ends the process at once, but for its parts. One that is ignored, as
    SIGHUP under ``nohup``, stays ignored.
    """
    global _heeding, _heard, _hook_before
    _heeding, _heard, _hook_before = True, None, sys.unraisablehook
    for number in _ENDING:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _end)
    sys.unraisablehook = _dropped


def stop_heeding() -> None:
    """Let signals end the process by themselves: all is done, and an exception would find nobody to catch it."""
    global _heeding
    _heeding = False
    sys.unraisablehook = _hook_before
    for number in _ENDING:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Handlers of signals that come in the block run when it ends.

    For C code that calls Python code back: Python runs handlers there too, before the callback's first line, and
    ctypes drops what they raise. For what must be done whole as well. Elsewhere than in the main thread, where no
    handler runs, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if came and handlers[number] is _end:
            _end_at_once(number)
        came.append((number, frame))

    try:
        for number in _HELD:
            handler = signal.getsignal(number)
            if callable(handler):  # neither ignored, nor the system's own
                handlers[number] = handler
                signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)


def give_up(sentence: str) -> None:
    """Say why C code is about to abort the process, which leaves no parts; a command exits with 1 instead."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"llm4dsr: {sentence}\n")
        sys.stderr.flush()
    parts.remove_all()
    if _heeding:
        os._exit(1)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    global _heard
    if _heard is not None:
        _end_at_once(number)
    _heard = number
    raise KeyboardInterrupt


def _dropped(unraisable: sys.UnraisableHookArgs) -> None:
    if _heard is not None and isinstance(unraisable.exc_value, KeyboardInterrupt):
        _end_at_once(_heard)
    _hook_before(unraisable)


def _end_at_once(number: int) -> NoReturn:
    parts.remove_all()
    with suppress(OSError, ValueError, AttributeError):  # a progress bar hides it; the stream may be gone
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
            sys.stderr.flush()
    os._exit(exit_code(number))
