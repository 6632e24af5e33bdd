"""Pictures of "Recalls" for the documentation, taken in a real browser before a real TensorBoard.

    python -m benchmarks.recall_pictures VIEWS.yaml

A view is a link of the page with the file it is for:

    - logdir: runs
      file: docs/pictures/recalls_qbert.png
      view: {run: quickstart__seed0__20261121-130214, episode: training-000050253, step: 96}
      dark: false

Needs chromium, chromedriver and selenium.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from benchmarks.browser import CHROMIUM, DRIVER, Page, chromium, tensorboard, until
from training.command_line import UsageError, guarded

SIZE = 1280, 860


class View(BaseModel):
    """What to show, and the file for the picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logdir: Path
    file: Path
    view: dict[str, str | int | float]
    dark: bool = False


def take(view: View) -> None:
    """Open a view and take its picture."""
    drawn = "[...document.querySelectorAll('canvas')].every(one => one.width > 0)"
    with tensorboard(view.logdir) as address, chromium(*SIZE) as driver:
        page = Page(driver, address)
        page.open(**view.view)
        page.run("window.parent.document.body.classList.toggle('dark-mode', arguments[0])", view.dark)
        until(lambda: page.run(f"document.querySelectorAll('.card').length > 0 && {drawn}"))
        view.file.parent.mkdir(parents=True, exist_ok=True)
        driver.switch_to.default_content()
        driver.save_screenshot(str(view.file))


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return
    if not (CHROMIUM and DRIVER):
        raise UsageError("pictures need chromium and chromedriver on the path")
    path = Path(sys.argv[1])
    try:
        views = TypeAdapter(list[View]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UsageError(f"{path} is not a list of views: {error}") from error
    for view in views:
        take(view)
        print(view.file, flush=True)


if __name__ == "__main__":
    guarded(main)
