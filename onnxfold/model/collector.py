"""Python's garbage collector, out of the way while a model is built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Collect no cycles in a block that makes many objects and drops few.

    The collector looks again and again at all objects that there are. Reading a graph of 100,000
    nodes takes more than twice as long with it, and the share grows with the graph.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
