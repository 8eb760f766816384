"""What was behind an error that a library wrapped in its own."""


def first_cause(error: BaseException) -> BaseException:
    """The error at the beginning of the chain of causes that `error` ends."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, to be the end of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
