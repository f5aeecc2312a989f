"""The settings that belong to no family, as types. Their values, defaults included, come from configs/."""

from dataclasses import dataclass
from typing import Annotated, Literal

from gentrain.ranges import Above, AtLeast, Between

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


@dataclass(frozen=True)
class Device:
    """configs/device/*.yaml."""

    name: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "tf32", "bf16"]
    channels_last: bool | Literal["auto"]
    compile: bool
    deterministic: bool
    threads: Annotated[int, AtLeast(1)] | None


@dataclass(frozen=True)
class Schedule:
    """What every optimizer has, beside the arguments of its own function in optimizers.py."""

    lr: Annotated[float, Above(0)]
    schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, AtLeast(0)]
