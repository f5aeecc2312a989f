"""Ctrl-C and SIGTERM: the first one asks, the second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType

from gentrain.errors import Interrupted


class StopRequest:
    """While it is entered, SIGINT and SIGTERM set `requested` once there is something worth saving.

    Before `graceful` is set there is nothing to save and the first signal already raises Interrupted, as
    the second one always does. Outside the main thread Python allows no handlers, and this does nothing.
    """

    def __init__(self) -> None:
        self.graceful = False
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        return 128 + (self.signal or signal.SIGINT)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again, self.signal = self.requested, number
        if again or not self.graceful:
            raise Interrupted(self.exit_status)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        print(
            f"\n{name}: finishing this step and saving; once more stops at once", file=sys.stderr, flush=True
        )
