"""How to verify."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxfold.errors import BadOptionError


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        rtol: Allowed error relative to an output's largest magnitude. Given, it replaces the
            measured tolerance (together with `atol`).
        atol: Allowed absolute error. Given, it replaces the measured tolerance.
        seed: Seed of the feeds and of the perturbations.
        input_shapes: Sizes to feed, by input name; other inputs' sizes are found.
        threads: Threads per operator, None for the runtime's choice.
        max_feeds: At most so many feeds, the most telling first; None for all.
        time_limit: Seconds that running the reference should stay below. Feeds are left out to
            keep it, except the first two. None for no limit, which makes the set of feeds
            independent of the machine.

    Raises:
        BadOptionError: A number that makes no sense.
    """

    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None
    max_feeds: int | None = None
    time_limit: float | None = 120.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "time_limit"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise BadOptionError(
                    f"{name} is {value}, which is not a non-negative number", f"try --{name} 1e-4"
                )
        if self.seed < 0:
            raise BadOptionError(f"seed is {self.seed}", "a seed is zero or more")
        for name in ("max_feeds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOptionError(f"{name} is {value}", "at least one is needed")
