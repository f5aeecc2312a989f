"""`gentrain.load` and what it gives leave the process that calls them as it was."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES

from gentrain.errors import UserError
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.device import FLOAT32, compute_of

PLAIN = {"name": "cpu", "precision": "auto", "channels_last": "auto", "compile": False}
PLAIN |= {"deterministic": False, "threads": None}
SECTIONS: list[dict[str, Any]] = [
    {},
    {"precision": "float32"},
    {"precision": "bf16"},
    {"channels_last": True},
    {"compile": True},
    {"cuda_graph": False},
    {"deterministic": True},
    {"threads": 3},
    {"deterministic": True, "threads": 1, "precision": "bf16"},
]


def settings() -> dict[str, Any]:
    """All that a library could change in the process of its caller."""
    return {
        "float32": [backend.fp32_precision for backend in FLOAT32],
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": torch.random.get_rng_state().tolist(),
        "others' random": (random.getstate(), str(np.random.get_state())),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
    }


def _older_functions() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    torch.use_deterministic_algorithms(True, warn_only=True)


def _newer_settings() -> None:
    torch.backends.fp32_precision = "tf32"  # the older functions raise an error from now on
    torch.backends.cudnn.benchmark = True


CALLERS: list[Callable[[], None]] = [lambda: None, _older_functions, _newer_settings]


@pytest.fixture
def clean() -> Iterator[None]:
    before = [(backend, backend.fp32_precision) for backend in FLOAT32]
    threads = torch.get_num_threads()
    yield
    torch.backends.fp32_precision = "none"
    for backend, precision in before:
        backend.fp32_precision = precision
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def _calls(run: TrainedRun, file: Path) -> dict[str, Callable[[], object]]:
    """Each public method: one that is not called here is an error."""
    x = torch.zeros(2, *run.shape.chw, dtype=torch.uint8)
    known = torch.ones(1, 1, *run.shape.chw[1:], dtype=torch.bool)
    calls: dict[str, Callable[[], object]] = {
        "sample": lambda: run.sample(2),
        "chain": lambda: run.chain(2, steps=1),
        "log_prob": lambda: run.log_prob(x),
        "reconstruct": lambda: run.reconstruct(x),
        "encode": lambda: run.encode(x),
        "posterior": lambda: run.posterior(x),
        "draw_codes": lambda: run.draw_codes(2),
        "decode": lambda: run.decode(torch.zeros(2, int(run.config["model"].get("latent_dim", 1)))),
        "complete": lambda: run.complete(x, known),
        "save_weights": lambda: run.save_weights(file),
    }
    public = {name for name, value in vars(TrainedRun).items() if callable(value) and name[0] != "_"}
    assert calls.keys() == public
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_callers_changes(
    family: str, gentrain: Command, tiny: list[str], tmp_path: Path, clean: None
) -> None:
    outcome = gentrain(*tiny, *FAMILIES[family], "run_dir=run", "train.max_steps=1")
    assert outcome.status == 0, outcome.err
    served, sections = 0, SECTIONS if family == "vae" else SECTIONS[::8]  # the plain one, and one with most
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    for caller in CALLERS:
        caller()
        for section in sections:
            before = settings()
            run = TrainedRun.open("run", device=PLAIN | section)
            assert settings() == before, ("open", section)
            for name, call in _calls(run, tmp_path / "w.safetensors").items():
                try:
                    call()
                    served += 1
                except UserError:  # this family has none
                    pass
                assert settings() == before, (name, section)
    assert served >= 2 * len(CALLERS) * len(sections)  # it samples and saves its weights


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("section", SECTIONS)
def test_what_a_place_asks_for_holds_inside_and_ends_with_an_error(
    section: dict[str, Any], caller: Callable[[], None], clean: None
) -> None:
    caller()
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    before = settings()
    compute = compute_of(PLAIN | section)
    assert settings() == before
    with pytest.raises(ZeroDivisionError), compute.computing():
        inside = settings()
        assert set(inside["float32"]) == {"ieee"}
        assert inside["threads"] == section.get("threads", before["threads"])
        assert inside["deterministic"] == (section.get("deterministic", False) or before["deterministic"])
        assert inside["autocast"][0] == (section.get("precision") == "bf16")
        raise ZeroDivisionError
    assert settings() == before
