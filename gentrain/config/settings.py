"""The settings that belong to no family, as types. Their values, defaults included, come from configs/."""

from dataclasses import dataclass
from typing import Annotated, Literal

from gentrain.config.ranges import Above, AtLeast, Between

Every = Annotated[int, AtLeast(1)] | None


@dataclass(frozen=True)
class Train:
    """configs/config.yaml, under `train`. An interval of null means: only at the end."""

    max_steps: Annotated[int, AtLeast(1)]
    batch_size: Annotated[int, Between(1, 1_000_000)]
    accumulate_steps: Annotated[int, AtLeast(1)]
    grad_clip: Annotated[float, Above(0)] | None
    ema_halflife_images: Annotated[float, Above(0)] | None
    log_every_steps: Every
    eval_every_steps: Every
    sample_every_steps: Every
    save_every_steps: Every
    keep_last: Annotated[int, AtLeast(1)]
    sample_count: Annotated[int, AtLeast(1)]
    # With values here, so that the runs of older versions can still be read.
    on_alarm: Literal["warn", "stop", "rollback"] = "warn"
    max_rollbacks: Annotated[int, AtLeast(1)] = 3
    frechet_samples: Annotated[int, AtLeast(1)] | None = None


@dataclass(frozen=True)
class Preprocessing:
    """configs/config.yaml, under `data`: how the pictures of any data set are shown to a model."""

    levels: Annotated[int, Between(2, 256)]
    binarize: Literal["threshold", "dynamic"]
    flip: bool
    shift: Annotated[int, Between(0, 16)]
    on_bad: Literal["fail", "skip"]
    allow_changed: bool

    @property
    def description(self) -> str:
        """How many levels, and how they were made where there is a choice: named beside every figure."""
        if self.levels != 2:
            return f"{self.levels} levels"
        return f"2 levels ({'threshold at 128' if self.binarize == 'threshold' else 'dynamic binarization'})"


@dataclass(frozen=True)
class Device:
    """configs/device/*.yaml."""

    name: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "tf32", "bf16"]
    channels_last: bool | Literal["auto"]
    compile: bool
    deterministic: bool
    threads: Annotated[int, AtLeast(1)] | None
    cuda_graph: bool = True  # with a default: the runs of older versions have none


@dataclass(frozen=True)
class Schedule:
    """What every optimizer has, beside the arguments of its own function in optimizers.py."""

    lr: Annotated[float, Above(0)]
    schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, AtLeast(0)]
