"""Times whole commands against each other, in random order every round."""

import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Samples:
    """What the runs of one command took.

    Attributes:
        wall: Seconds from start to end, one entry per run.
        cpu: Seconds of processor time, one entry per run.
        peak_bytes: Largest resident set of the process, one entry per run.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


def run_once(command: Sequence[str], into: Samples) -> None:
    """Run a command to its end and add what it took.

    Raises:
        RuntimeError: The command failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _WRAPPER, *command], capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    into.wall.append(wall)
    into.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    into.peak_bytes.append(int(done.stderr.rsplit("peak-kib=", 1)[1]) * 1024)


_WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak-kib=%d" % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""Measures the peak of one command alone: the maximum over children never falls again."""


def alternate(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Samples]:
    """Run every command once per round, in random order, after one round that is not counted."""
    order = list(commands)
    samples = {name: Samples() for name in order}
    generator = random.Random(0)
    for turn in range(rounds + 1):
        generator.shuffle(order)
        for name in order:
            run_once(commands[name], samples[name] if turn else Samples())
    return samples


def describe(values: Sequence[float]) -> str:
    """Median with the smallest and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median and range of the ratio, round by round."""
    return describe([a / b for a, b in zip(ours, theirs, strict=True)])
