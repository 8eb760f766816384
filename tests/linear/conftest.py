"""The long run of the random tests: `pytest tests/linear --hypothesis-profile=long`."""

from hypothesis import settings

settings.register_profile("long", print_blob=True)
