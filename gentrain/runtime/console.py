"""The live display of a run; plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip

from gentrain.runtime.ranks import is_main

# One redraw a second: the drawing thread takes its time from training on a small machine.
REDRAWS_PER_SECOND = 1
COLUMNS = {
    "loss": "train/loss",
    "bits/dim": "train/bits_per_dim",
    "D loss": "train/d_loss",
    "G loss": "train/g_loss",
    "D(x)": "train/d_real",
    "D(G(z))": "train/d_fake",
    "margin": "train/logit_margin",
    "right real": "train/d_right_real",
    "right fake": "train/d_right_fake",
    "diversity": "train/diversity",
    "img/s": "perf/images_per_second",
}


class Display:
    """A progress bar with the last figures, or a line each time that figures are logged."""

    def __init__(self, start_step: int, max_steps: int, console: Console) -> None:
        self.console = console
        self._start, self._max = start_step, max_steps
        self._begun = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=REDRAWS_PER_SECOND,
            )
            self._task = self._bar.add_task("step", total=max_steps, completed=start_step, figures="")

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        shown = {name: values[tag] for name, tag in COLUMNS.items() if tag in values}
        if "G loss" in shown:
            shown.pop(
                "loss", None
            )  # the sum of the losses of generator and discriminator, of which only that it is finite matters
        digits = 4 if len(shown) <= 4 else 3  # all on one line
        text = "  ".join(f"{name} {value:.{digits}g}" for name, value in shown.items())
        if self._bar and text:
            self._bar.update(self._task, figures=text)
        elif text:
            done = step - self._start
            left = (time.monotonic() - self._begun) / max(1, done) * (self._max - step)
            self.say(f"step {step}/{self._max}  {text}  {left:.0f} s left")
        rest = {tag: value for tag, value in values.items() if tag.startswith("valid/")}
        if rest:
            self.say(f"step {step}  " + "  ".join(f"{tag} {value:.4g}" for tag, value in rest.items()))

    def say(self, text: str) -> None:
        say(self.console, text)

    def doing(self, what: str) -> None:
        """What takes long between steps; an empty text when it is over."""
        if self._bar:
            self._bar.update(self._task, description=what or "step")


def console_of_rank() -> Console:
    """Of several processes only rank 0 is heard."""
    return Console() if is_main() else Console(quiet=True, force_terminal=False)


def say(console: Console, text: str) -> None:
    """A plain line: not wrapped, nothing in it taken for markup, so that paths can be copied."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def preparing(console: Console, what: str = "preparing pictures") -> Iterator[Callable[[int, int], None]]:
    """A bar for what comes before or after training; shown only once there is something to wait for."""
    with Progress(
        *Progress.get_default_columns(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task: list[TaskID] = []

        def progress(done: int, total: int) -> None:
            if not task:
                task.append(bar.add_task(what, total=total))
            bar.update(task[0], completed=done)

        yield progress
