"""Signals that ask a run to save and stop; of Ctrl-C and SIGTERM a second one stops at once.

SIGUSR1 and SIGUSR2 are what SLURM and the parent of a sweep's job send. SIGHUP says that the terminal is
gone: the kernel and the shell may both send it, and who ends a session sends SIGTERM, too. So these only ask:
they may come together, or with a signal of a person, and must not be taken for an impatient second one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from gentrain.errors import Interrupted
from gentrain.runtime.collectives import all_reduce_max
from gentrain.runtime.ranks import is_main, world_size

ASK_EVERY_SECONDS = 0.5  # at most, where a step takes less

OF_A_PERSON = (signal.SIGINT, signal.SIGTERM)
WARNINGS = () if sys.platform == "win32" else (signal.SIGUSR1, signal.SIGUSR2)
HANGUP = () if sys.platform == "win32" else (signal.SIGHUP,)
SIGNALS = (*OF_A_PERSON, *WARNINGS, *HANGUP)


def hangs_up() -> bool:
    """Whether this process is to hear SIGHUP: not under nohup, which has it ignored.

    But torchrun takes it even then, and hands it on to its processes before it kills them.
    """
    ignored = any(signal.getsignal(number) == signal.SIG_IGN for number in HANGUP)
    return bool(HANGUP) and (not ignored or "TORCHELASTIC_RUN_ID" in os.environ)


class StopRequest:
    """While it is entered, these signals set `requested` once there is something worth saving.

    Before `graceful` is set there is nothing to save and the first signal already raises Interrupted, as
    the second Ctrl-C or SIGTERM always does. `then` is called at the first one. SIGHUP stays ignored where it
    is (nohup). Outside the main thread Python allows no handlers, and this does nothing.

    Of several processes any one's signal stops all of them after the same step: `requested` is what they
    have agreed upon, in `agree`.
    """

    def __init__(
        self, what: str = "finishing this step and saving", then: Callable[[], object] = int
    ) -> None:
        self._what, self._then = what, then
        self.graceful = False
        self.signal: int | None = None  # that this process was sent
        self._by_a_person = False
        self._agreed = 0
        self._steps, self._steps_left, self._asked_at = 0, 1, time.monotonic()  # since all were asked
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None if world_size() == 1 else self._agreed > 0

    @property
    def exit_status(self) -> int:
        return 128 + (self.signal or self._agreed or signal.SIGINT)

    def agree(self) -> bool:
        """`requested`, after asking all processes, which must all call this: a tiny all-reduce."""
        self._steps = 0  # what was done meanwhile says nothing of how long a step takes
        return self._ask()

    def agree_after_step(self) -> None:
        """As `agree`, but only every so many steps that about half a second has gone by."""
        self._steps += 1
        self._steps_left -= 1
        if self._steps_left <= 0:
            self._ask()

    def _ask(self) -> bool:
        if world_size() > 1:
            seconds_a_step = (time.monotonic() - self._asked_at) / max(1, self._steps)
            agreed, slowest = all_reduce_max(self.signal or 0, seconds_a_step)
            if agreed and not self._agreed and is_main():
                self._say(int(agreed))
            self._agreed = self._agreed or int(agreed)
            # At most twice as many as the last time: few steps say little, above all where a GPU runs behind.
            self._steps_left = max(1, min(2 * self._steps, int(ASK_EVERY_SECONDS / max(1e-6, slowest))))
            self._steps, self._asked_at = 0, time.monotonic()
        return self.requested

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number not in HANGUP or hangs_up():
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        insists = self._by_a_person and number in OF_A_PERSON
        self._by_a_person = self._by_a_person or number in OF_A_PERSON
        known = self.signal is not None
        if not known or insists:
            self.signal = number
        if insists or not self.graceful:
            raise Interrupted(self.exit_status)
        if known:
            return
        self._then()
        if world_size() == 1:  # else it is said once, when all have agreed
            self._say(number)

    def _say(self, number: int) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        more = "; once more stops at once" if number in OF_A_PERSON else ""
        print(f"\n{name}: {self._what}{more}", file=sys.stderr, flush=True)
