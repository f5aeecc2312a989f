"""The ranges of settings, written next to their types: `width: Annotated[int, AtLeast(1)]`.

Whoever reads a constructor's signature can check a value before anything is built. Imports no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class AtLeast:
    """minimum <= value."""

    minimum: float

    def ok(self, value: float) -> bool:
        return value >= self.minimum

    def __str__(self) -> str:
        return f"at least {self.minimum}"


@dataclass(frozen=True)
class Above:
    """bound < value."""

    bound: float

    def ok(self, value: float) -> bool:
        return value > self.bound

    def __str__(self) -> str:
        return f"above {self.bound}"


@dataclass(frozen=True)
class Below:
    """value < bound."""

    bound: float

    def ok(self, value: float) -> bool:
        return value < self.bound

    def __str__(self) -> str:
        return f"below {self.bound}"


@dataclass(frozen=True)
class Between:
    """low <= value <= high."""

    low: float
    high: float

    def ok(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low} and {self.high}"
