"""From a preset and overrides to a checked configuration; every mistake becomes one line that names the mend."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)

USAGE_ERROR = 2
"""Exit code of a mistake in what was asked for, as opposed to a failure while doing it."""


class UsageError(Exception):
    """A mistake in what was asked for, told in one line."""


def guarded(main: Callable[[], None]) -> None:
    """Run a program's `main`; what was asked wrongly ends in one line on stderr and exit code 2."""
    try:
        main()
    except UsageError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print one line and leave with the exit code of a usage error."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USAGE_ERROR)


def nearest_names(name: str, names: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the names closest to a misspelt one, or nothing."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def load_preset(model: type[Model], path: Path, presets: Path) -> Model:
    """Read and check a preset.

    Raises:
        UsageError: if the file is missing, not YAML, or does not describe a `model`.
    """
    if not path.is_file():
        known = [str(preset) for preset in sorted(presets.glob("*.yaml"))]
        near = nearest_names(str(path), known) or f"; there are {', '.join(known)}"
        raise UsageError(f"no preset {str(path)!r}{near}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    return check(model, content, str(path))


def check(model: type[Model], content: object, source: str) -> Model:
    """Validate the content of a file read from `source`.

    Raises:
        UsageError: naming the first option that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first complaint of a validation, in one line."""
    first = error.errors(include_url=False)[0]
    option = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{option}: {message} (got {first['input']!r})" if option else message


def parse_overrides(default: Model, arguments: Sequence[str], program: str, description: str) -> Model:
    """Apply command-line overrides to a preset; `--help` prints every option of it.

    Raises:
        UsageError: on an unknown option, a value of the wrong type, or one out of range.
    """
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.cli(
                tyro.conf.AvoidSubcommands[type(default)],  # type: ignore[misc]
                default=default,
                args=list(arguments),
                prog=program,
                description=description,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UsageError(_one_line(complaints.getvalue())) from None


def _one_line(box: str) -> str:
    """A tyro error box without its frame, its title and what repeats the help."""
    text = " ".join(re.sub(r"^╭.*$|[│╰╯─]", " ", box, flags=re.MULTILINE).split())
    text = re.sub(r" For full helptext, .*$", "", text)
    text = re.sub(r"Error parsing \S+: \d+ validation errors? for \w+ ", "", text)
    # Pydantic's own postscript: the type of the error, the input, and an address.
    return re.sub(r" \[type=.*?\]| For further information visit \S+", "", text)
