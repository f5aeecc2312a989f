"""Ctrl-C and SIGTERM: the first one asks, the second one stops at once. SIGUSR1 and SIGUSR2 only ask.

Those two are what SLURM and the parent of a sweep's job send; they may come together with a Ctrl-C or SIGTERM
that went to all processes of a group, and must not be taken for an impatient second one.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from gentrain.errors import Interrupted

OF_A_PERSON = (signal.SIGINT, signal.SIGTERM)
WARNINGS = () if sys.platform == "win32" else (signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """While it is entered, these signals set `requested` once there is something worth saving.

    Before `graceful` is set there is nothing to save and the first signal already raises Interrupted, as
    the second Ctrl-C or SIGTERM always does. `then` is called at the first one. Outside the main thread
    Python allows no handlers, and this does nothing.
    """

    def __init__(
        self, what: str = "finishing this step and saving", then: Callable[[], object] = int
    ) -> None:
        self._what, self._then = what, then
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
            for number in (*OF_A_PERSON, *WARNINGS):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        insists = self.signal in OF_A_PERSON and number in OF_A_PERSON
        known = self.requested
        if not known or insists:
            self.signal = number
        if insists or not self.graceful:
            raise Interrupted(self.exit_status)
        if known:
            return
        self._then()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(f"\n{name}: {self._what}; once more stops at once", file=sys.stderr, flush=True)
