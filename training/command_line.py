"""From a preset and overrides to a checked configuration; every mistake becomes one line that names the mend."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import itertools
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError

from training.options import models_in
from training.signals import LEFT_AT_ONCE

Model = TypeVar("Model", bound=BaseModel)

USAGE_ERROR = 2
"""Exit code of a mistake in what was asked for, as opposed to a failure while doing it."""
NOT_FINITE = 3
"""Exit code of a run whose loss or gradient was not finite."""


class UsageError(Exception):
    """A mistake in what was asked for, told in one line."""


def guarded(main: Callable[[], None]) -> None:
    """Run a program's `main`; what was asked wrongly ends in one line on stderr and exit code 2."""
    lost = None
    try:
        main()
    except UsageError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(LEFT_AT_ONCE)
    except OSError as error:
        if not _is_lost():
            raise
        lost = error
    finally:
        lost = _flush() or lost
    if lost is not None:
        # Whoever read it (`| head`) may have left.
        if not isinstance(lost, BrokenPipeError):
            print(f"error: the output could not be written: {lost.strerror}", file=sys.stderr)
        sys.exit(1)


def say(line: str) -> None:
    """Print a line for whoever is there. Where nothing can be printed, it and all output after it are lost."""
    with contextlib.suppress(OSError):
        print(line)
    _flush()


def _is_lost() -> bool:
    """Whether nothing can be printed; where something can, an empty line is."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _flush() -> OSError | None:
    """Bring the output to where it goes; or give it up, and tell why."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def fail(message: str) -> NoReturn:
    """Print one line and leave with the exit code of a usage error."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USAGE_ERROR)


class ArgumentParser(argparse.ArgumentParser):
    """A parser of short command lines that complains in one line, and knows options by their full names only."""

    def __init__(self, program: str, description: str | None) -> None:
        super().__init__(
            program, description=description, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def nearest_names(name: str, names: Sequence[str]) -> str:
    """`; did you mean x?` for the name closest to a misspelt one, or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def load_preset(model: type[Model], path: Path, presets: Path) -> Model:
    """Read and check a preset.

    Raises:
        UsageError: if the file is missing, naming the nearest of those in `presets`; and as `load_yaml`.
    """
    if not path.is_file():
        known = {preset.stem: str(preset) for preset in sorted(presets.glob("*.yaml"))}
        close = difflib.get_close_matches(path.stem, known, n=1)
        near = f"did you mean {known[close[0]]}?" if close else f"there are {', '.join(known.values()) or 'none'}"
        raise UsageError(f"no preset {str(path)!r}; {near}")
    return load_yaml(model, path)


class _Loader(yaml.SafeLoader):
    """Refuses an option that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [key for key, _ in node.value if names.count(key.value) > 1]:
            raise yaml.YAMLError(f"{twice[1].value} is given twice, again in line {twice[1].start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def load_yaml(model: type[Model], path: Path) -> Model:
    """Read and check a file of options.

    Raises:
        UsageError: if it cannot be read, is not YAML, or does not describe a `model`.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} should hold options by name, {', '.join(model.model_fields)} (got {content!r:.40})")
    return check(model, content, str(path))


def check(model: type[Model], content: object, source: str) -> Model:
    """Validate the content of a file read from `source`.

    Raises:
        UsageError: naming the first option that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first complaint of a model's validation, in one line; `prefix` goes before the option's name."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    names, siblings = _locate(model, first["loc"])
    option = prefix + ".".join(names)
    if kind == "extra_forbidden":
        near = nearest_names(names[-1], siblings) or f"; there are {', '.join(siblings)}"
        return f"unknown option {option}{near}"
    if kind == "missing":
        return f"{option} is missing"
    if kind == "union_tag_not_found":
        return f"{option}.name is missing"
    if kind == "union_tag_invalid":
        return f"{option}.name: should be one of {context['expected_tags']} (got {context['tag']!r})"
    # Our own validators say themselves what they were given.
    got = "" if kind == "value_error" else f" (got {reprlib.repr(first['input'])})"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ") + got
    return f"{option}: {message}" if names else message


def parse_overrides(default: Model, arguments: Sequence[str], program: str, description: str) -> Model:
    """Apply command-line overrides to a preset; `--help` prints every option of it.

    A part of a part may be another than the preset's: `--agent.core.name dnc`. The options that both have in common
    stay as the preset has them. The parts at the top (world, agent) are the preset's own.

    Raises:
        UsageError: on an unknown option, a value of the wrong type, or one out of range.
    """
    default = _with_asked_parts(default, _asked(arguments))
    _refuse_unknown(list(_options(default, "--")), arguments)
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.cli(
                tyro.conf.FlagConversionOff[tyro.conf.AvoidSubcommands[type(default)]],  # type: ignore[misc]
                default=default,
                args=list(arguments),
                prog=program,
                description=description,
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UsageError(_out_of_range(stop, default) or _one_line(complaints.getvalue())) from None


def _locate(model: type[BaseModel], place: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The names that lead to a place in a model, and those of all options beside it."""
    names: list[str] = []
    siblings: list[str] = []
    members = [model]
    for part in place:
        tagged = [member for member in members if member.model_fields["name"].default == part] if members[1:] else []
        if tagged:
            # The tag that chose a union's member is no level in a file.
            members = tagged
            continue
        names.append(str(part))
        siblings = [name for member in members for name in member.model_fields]
        field = members[0].model_fields.get(names[-1]) if members else None
        members = models_in(field.annotation) if field else []
    return names, siblings


def _options(model: BaseModel, prefix: str) -> Iterator[str]:
    for name, value in model:
        if isinstance(value, BaseModel):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _parts(model: BaseModel, prefix: str) -> Iterator[tuple[str, BaseModel]]:
    """The models below a model, each with what its options begin with."""
    for name, value in model:
        if isinstance(value, BaseModel):
            yield f"{prefix}{name}.", value
            yield from _parts(value, f"{prefix}{name}.")


def _with_asked_parts(model: Model, asked: Mapping[str, str], prefix: str = "--") -> Model:
    """A model some of whose parts of parts are others, by the name that was asked for, with what both have in common.

    Raises:
        UsageError: where there is none of that name.
    """
    changes: dict[str, BaseModel] = {}
    for field, part in model:
        if not isinstance(part, BaseModel):
            continue
        of_part = f"{prefix}{field}."
        name = asked.get(f"{of_part}name")
        if name and not name.startswith("--") and prefix != "--":
            union = models_in(type(model).model_fields[field].annotation)
            members = {member.model_fields["name"].default: member for member in union}
            if name not in members:
                raise UsageError(f"{of_part}name: should be one of {', '.join(map(repr, members))} (got {name!r})")
            common = {of_both: value for of_both, value in part if of_both in members[name].model_fields}
            part = members[name].model_validate({**common, "name": name})
        changes[field] = _with_asked_parts(part, asked, of_part)
    return model.model_copy(update=changes) if changes else model


def _asked(arguments: Sequence[str]) -> dict[str, str]:
    """What follows each option, by the option's name in the models."""
    asked = {}
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = argument.partition("=")
        asked[_named(option)] = value if equals else following
    return asked


def _named(option: str) -> str:
    return "--" + option[2:].replace("-", "_")


def _refuse_unknown(known: list[str], arguments: Sequence[str]) -> None:
    for argument in arguments:
        option = argument.partition("=")[0]
        name = _named(option)
        if option.startswith("--") and name not in (*known, "--help"):
            raise UsageError(f"unrecognized option {option}{nearest_names(name, known) or '; see --help'}")


def _out_of_range(stop: SystemExit, default: BaseModel) -> str | None:
    """What pydantic had to say before tyro gave up, if it had."""
    error: BaseException | None = stop
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    # A model below the top is validated alone, and its complaint bears its own name only.
    for prefix, part in _parts(default, "--"):
        if type(part).__name__ == error.title:
            return explain(error, type(part), prefix)
    return explain(error, type(default), "--")


def _one_line(box: str) -> str:
    """What a tyro error box complains of, without its frame, its title, and what repeats the help."""
    lines = [line.strip(" │") for line in box.splitlines()]
    paragraphs = re.split(r"[─-]{9,}", " ".join(line for line in lines if line and line[0] not in "╭╰"))
    # Where the terminal cannot draw the frame, the title has a line of its own.
    text = paragraphs[0 if "╭" in box else 1].strip().removeprefix("Error parsing ")
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"should be a whole number (got \1)", text)
    text = re.sub(r"could not convert string to float: (.*)", r"should be a number (got \1)", text)
    text = re.sub(r"no type matching \{None\}\|(\w+) .*? from \[(.*?)\].*", r"should be \1 or None (got \2)", text)
    return text[:1].lower() + text[1:]
