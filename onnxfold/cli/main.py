"""The command group. Commands are imported when they are called, so that `--help` is quick."""

import atexit
import difflib
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from onnxfold.errors import OnnxfoldError

_COMMANDS = {
    "bench": ("onnxfold.cli.bench", "Time models beside each other: how much faster is which?"),
    "calibrate": ("onnxfold.cli.calibrate", "Run a model on samples, note what its values are."),
    "optimize": ("onnxfold.cli.optimize", "Fold what is linear, prove the result equal, write it."),
    "passes": ("onnxfold.cli.passes", "List the passes, or document one."),
    "quantize": ("onnxfold.cli.quantize", "Make an INT8 model that its target runs in INT8."),
    "verify": ("onnxfold.cli.verify", "Compare two models: do they compute the same?"),
}
_USAGE, _CANNOT, _BUG, _INTERRUPTED = 2, 3, 70, 130
_WANTS_JSON = "onnxfold.wants_json"


class _Group(click.Group):
    """Imports commands late, and turns whatever goes wrong into one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"see `{ctx.command_path} --help`"
            raise _UnknownCommandError(f"there is no command '{args[0]}'", hint)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WANTS_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong is JSON too where that was asked for."""
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            if ctx.meta.get(_WANTS_JSON):
                _print_json(error, ctx)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; in standalone mode, exit with the code that the README lists."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        # The interpreter searches all objects for cycles on its way out, and a graph is one.
        atexit.register(gc.freeze)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:
            code = _reported(error)
        sys.exit(code if isinstance(code, int) else 0)


class _UnknownCommandError(OnnxfoldError):
    """The first word is no command."""


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = importlib.metadata.version("onnxfold")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed, run from its source)"
    click.echo(f"onnxfold {version}")
    ctx.exit()


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 not equal, 2 usage or bad model, 3 cannot do it on this "
    "machine, 70 a bug in onnxfold.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Rewrite ONNX graphs of segmentation networks: what is linear becomes one convolution.

    \b
    Examples:
      onnxfold optimize in.onnx -o out.onnx
      onnxfold optimize in.onnx -o out.onnx --passes fuse_bn,fuse_pad
      onnxfold verify in.onnx out.onnx
      onnxfold bench in.onnx out.onnx
      onnxfold passes fuse_bn
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(_USAGE)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that the README lists."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a terminal that cannot show γ shows ?
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    with suppress(ValueError, AttributeError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)
    cli.main(arguments, prog_name="onnxfold")


def _terminate(number: int, _: object) -> NoReturn:
    # As Ctrl-C does: what was begun is cleaned up on the way out.
    raise KeyboardInterrupt(number)


def _reported(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    told = _told(error)
    _say(told)
    return told.code


@dataclass(frozen=True, slots=True)
class _Told:
    """What a user is told about an error."""

    message: str
    hint: str
    code: int


def _told(error: Exception) -> _Told:
    match error:
        case click.Abort():
            return _Told("interrupted", "no file was left half written", _INTERRUPTED)
        case click.ClickException():
            return _Told(_one_sentence(error.format_message()), _usage_hint(error), _USAGE)
        case OnnxfoldError():
            return _Told(error.message, error.hint, error.exit_code)
        case MemoryError():
            hint = "use a machine with more, or smaller inputs"
            return _Told("there is not enough memory", hint, _CANNOT)
        case _:
            return _Told(f"a bug in onnxfold: {_summary(error)}", _trace_hint(error), _BUG)


def _print_json(error: Exception, ctx: click.Context) -> None:
    """What went wrong, on stdout, unless a report is there."""
    from onnxfold.cli import output

    if not ctx.meta.get(output.JSON_PRINTED):
        told = _told(error)
        with suppress(OnnxfoldError):  # stdout may be what has failed
            output.print_json(
                {"error": {"message": told.message, "hint": told.hint, "exit_code": told.code}}
            )


def _summary(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _usage_hint(error: click.ClickException) -> str:
    context: click.Context | None = getattr(error, "ctx", None)
    path = "onnxfold" if context is None else context.command_path
    return f"see `{path} --help`"


def _one_sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _trace_hint(error: BaseException) -> str:
    """Where it happened, for a bug report, without a traceback."""
    frame: Any = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return f"please report it with the model; it happened in {frame.name} ({place})"


def _say(told: _Told) -> None:
    plain = bool(os.environ.get("NO_COLOR"))
    for word, colour, text in (("error", "red", told.message), ("hint", "cyan", told.hint)):
        if text:
            label = word if plain else click.style(word, fg=colour)
            with suppress(OSError):  # stderr may be closed
                click.echo(f"{label}: {text}", err=True)
