"""Figures and tables of the results: docs/results/*.csv in, docs/results/*.png and Markdown out.

    python -m benchmarks.figures atari_1m                                  draw the figures, print the table
    python -m benchmarks.figures atari_1m --pages docs/results/README.md   and put it into the page

In a page, the table goes between `<!-- table:atari_1m -->` and `<!-- /table -->`. Numbers are means over seeds, with
the standard deviation (of a sample) and the number of seeds; bands of figures reach from the worst seed to the best.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from pydantic import BaseModel, ConfigDict

from benchmarks import results
from benchmarks.reports import BABI_TASKS, LESSONS, REPORTS, Figure, Report
from benchmarks.results import Row
from benchmarks.runner import check_folder
from training.command_line import UsageError, guarded, parse_overrides

DOPAMINE = results.REPOSITORY / "docs/results/published/dopamine_1m.csv"
MFEC_PAPER_MATCHES = {"qbert": 0.6, "ms_pacman": 0.5, "frostbite": 0.1}
"""Share of exact matches that Blundell et al. (2016, section 4.1) tell of."""

# Okabe and Ito's colours, which the colour-blind can tell apart, and a dash for whoever prints in black and white.
LOOKS = {
    "MFEC": ("#0072B2", "-"),
    "NEC": ("#D55E00", "-"),
    "NEC frozen-encoder": ("#E69F00", "--"),
    "REC": ("#CC79A7", "-"),
    "DQN": ("#009E73", "-"),
    "random": ("#777777", ":"),
}
OTHER_LOOKS = [
    (colour, dash)
    for dash in ("-", "--", ":")
    for colour in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
]


AXES = {
    "steps": ("Agent steps (thousands)", 1 / 1000),
    "frames": ("Frames (thousands)", 4 / 1000),
    "updates": ("Updates of 32 images", 1 / 32),
    "sequence updates": ("Updates (thousands)", 1 / 1000),
    "seconds": ("Seconds of learning", 1.0),
}
"""What an axis is called, and how much of it an agent step is."""
COUNTED = ("diverged",)
"""Metrics that are 1 or 0: how many runs are told, not their mean."""
TO_A_TENTH = ("test_nll_nats",)
"""Metrics whose tenths matter beyond 100, too."""
HEADINGS = {
    "return": "return at the end",
    "return_over_run": "return over the run",
    "return_last_20": "return of the last 20 episodes",
    "eval_return": "evaluation return",
    "exact_hit_rate": "exact matches",
    "share_lookup": "look-up",
    "nearest_squared": "squared distance to the nearest other",
    "last_squared": "and to the 50th",
    "own_weight_1e-3": "weight of its own memory: delta 1e-3",
    "explained_1e-3": "variance explained by the others: delta 1e-3",
    **{f"{what}_1e-{power}": f"1e-{power}" for what in ("own_weight", "explained") for power in (4, 5, 6)},
    "rescaled_drawn": "of rescaled values: as drawn",
    "values_drawn": "of values as they are: as drawn",
    **{f"{scale}_{trial}_300": trial.replace("-", " ") for scale in ("rescaled", "values") for trial in LESSONS},
    "forcing": "nats paid to discriminators",
    "hidden_accuracy": "discriminator of hidden states right",
    "memory_accuracy": "discriminator of memories right",
    **{metric: metric.rpartition("_")[2] for metric in BABI_TASKS},
}


class FiguresOptions(BaseModel):
    """What to draw, and where to write it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    experiments: tyro.conf.Positional[tuple[str, ...]] = ()
    """Experiments by the names of their tables; without any, all that have one."""
    folder: Path = Path("docs/results")
    """Where the tables are, and the figures go."""
    pages: tuple[Path, ...] = ()
    """Markdown files whose marked tables are brought up to date; without any, tables are printed."""


def table(rows: Sequence[Row], report: Report) -> str:
    """A Markdown table of what the runs came to: the last row of each metric of each run, over all seeds."""
    finals: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in sorted(rows, key=lambda row: row.steps):
        finals[row.world, _name(row, report)][row.metric][row.seed] = row.value
    lines = [["world", "agent", *(_heading(metric) for metric in report.metrics), "seeds"]]
    lines.append(["---"] * 2 + ["---:"] * (len(report.metrics) + 1))
    for world in sorted({world for world, _ in finals}):
        for name in _sorted({name for at, name in finals if at == world}, report):
            final = finals[world, name]
            cells = [spread(metric, list(final[metric].values())) for metric in report.metrics]
            lines.append([world, name, *cells, _counted({len(final[metric]) for metric in report.metrics} - {0})])
        for agent, mean, least, greatest, seeds in dopamine(world) if report.dopamine else ():
            value = f"{_number(mean, mean)} ({_number(least, mean)} to {_number(greatest, mean)})"
            cells = [value if metric == "return_over_run" else "" for metric in report.metrics]
            lines.append([world, f"{agent} (Dopamine)", *cells, str(seeds)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _counted(seeds: set[int]) -> str:
    """How many seeds the numbers of a line are of, the fewest and the most where a metric is missing of some."""
    return " to ".join(str(count) for count in sorted({min(seeds, default=0), max(seeds, default=0)}))


def spread(metric: str, values: Sequence[float]) -> str:
    """Mean and deviation of the values of all seeds, shares in percent; empty if there are no values."""
    if not values:
        return ""
    if metric in COUNTED:
        return f"{sum(values):.0f} of {len(values)}"
    share = metric.startswith("share_") or metric.endswith(("_rate", "_accuracy"))
    numbers = np.array(values) * (100 if share else 1)
    mean = float(numbers.mean())
    # `_number` gives numbers of the size of ten their tenths.
    scale = min(mean, 10.0) if metric in TO_A_TENTH else mean
    deviation = f" ± {_number(float(numbers.std(ddof=1)), scale)}" if len(numbers) > 1 else ""
    return _number(mean, scale) + deviation + (" %" if share else "")


def put(page: str, experiment: str, table: str) -> str:
    """The page with the table between its marks for the experiment.

    Raises:
        ValueError: if the page has no such marks.
    """
    marks = re.compile(rf"(<!-- table:{re.escape(experiment)} -->\n).*?(<!-- /table -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"no place for the table: <!-- table:{experiment} --> and, below it, <!-- /table -->")
    return marks.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", page)


def dopamine(game: str) -> list[tuple[str, float, float, float, int]]:
    """Dopamine's agents in their first million frames: agent, mean return of the seeds, least, greatest, seeds."""
    with DOPAMINE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["game"] == game]
    names = {"dqn": "DQN", "rainbow": "Rainbow"}
    return [
        (names[row["agent"]], float(row["mean"]), float(row["min"]), float(row["max"]), int(row["seeds"]))
        for row in rows
    ]


def draw(rows: Sequence[Row], figure: Figure, report: Report, path: Path) -> None:
    """Curves of a metric over a run, a panel for each world: the mean over seeds, from the worst seed to the best."""
    # Only figures need it, and it costs a second to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves_of = replace(report, by_machine=False)
    rows = [row for row in rows if row.metric == figure.metric]
    contents = _panels(rows, curves_of)
    columns = min(3, len(contents))
    lines = -(-len(contents) // columns)
    canvas, panels = pyplot.subplots(
        lines, columns, figsize=(3.6 * columns + 0.4, 2.9 * lines + 0.3), squeeze=False, layout="constrained"
    )
    all_names = _sorted({_name(row, curves_of) for row in rows}, report)
    for panel, (world, here) in zip(panels.flat, contents.items(), strict=False):
        for name in _sorted({_name(row, curves_of) for row in here}, report):
            mine = [row for row in here if _name(row, curves_of) == name]
            steps, curves = _curves(mine)
            colour, dash = _look(name, all_names)
            x = _seconds(mine) if figure.axis == "seconds" else steps * AXES[figure.axis][1]
            panel.plot(x, np.nanmean(curves, axis=0), color=colour, linestyle=dash, linewidth=1.8, label=name)
            panel.fill_between(
                x, np.nanmin(curves, axis=0), np.nanmax(curves, axis=0), color=colour, alpha=0.18, linewidth=0
            )
        if report.dopamine and figure.metric == "return":
            for (agent, mean, *_), dash in zip(dopamine(world), ("--", ":"), strict=False):
                label = f"Dopamine's {agent}, mean of 1M frames"
                panel.axhline(mean, color="black", linestyle=dash, linewidth=1, label=label)
        if figure.metric == "exact_hit_rate" and world in MFEC_PAPER_MATCHES:
            panel.axhline(MFEC_PAPER_MATCHES[world], color="black", linestyle=":", linewidth=1, label="MFEC paper")
        panel.set_title(world, fontsize=10)
        panel.set_xlabel(AXES[figure.axis][0], fontsize=9)
        panel.tick_params(labelsize=8)
        if figure.metric.endswith("_rate"):
            panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels.flat[len(contents) :]:
        panel.set_visible(False)
    panels[0, 0].set_ylabel(figure.label, fontsize=9)
    legend = {
        label: line for panel in panels.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    # In inches: a line and its space, and letters of eight points.
    widest = 0.5 + 0.075 * max(map(len, legend))
    columns = max(1, min(4, len(legend), int(canvas.get_figwidth() / widest)))
    # A panel keeps its height, and room for its label, however many curves there are.
    canvas.set_figheight(canvas.get_figheight() + 0.175 * -(-len(legend) // columns))
    canvas.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    # Without its version, the same numbers give the same file.
    canvas.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    pyplot.close(canvas)


def _chosen(options: FiguresOptions) -> dict[str, list[Row]]:
    """The rows that each report shows, of those that were asked for or of all that have any.

    Raises:
        UsageError: if there are none of one that was asked for, or none at all.
    """
    try:
        shown = {name: _shown(options.folder, name) for name in options.experiments or REPORTS}
    except ValueError as error:
        raise UsageError(str(error)) from error
    for name in options.experiments:
        if not shown[name]:
            raise UsageError(f"no results of {name!r} in {options.folder}; known are {', '.join(REPORTS)}")
    if not any(shown.values()):
        raise UsageError(f"--folder: there are no tables in {options.folder}")
    return {name: rows for name, rows in shown.items() if rows}


def _shown(folder: Path, experiment: str) -> list[Row]:
    """The rows that an experiment's report shows; none if there is no such report, or no table for it."""
    if (report := REPORTS.get(experiment)) is None:
        return []
    return [
        row
        for row in results.read(folder / f"{report.source or experiment}.csv")
        if row.agent in (report.agents or (row.agent,)) and row.variant in (report.variants or (row.variant,))
    ]


def _curves(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[points]` and the values of each seed `[seeds, points]`, not a number where a seed has no row."""
    steps = sorted({row.steps for row in rows})
    seeds = sorted({row.seed for row in rows})
    curves = np.full((len(seeds), len(steps)), np.nan)
    for row in rows:
        curves[seeds.index(row.seed), steps.index(row.steps)] = row.value
    return np.array(steps), curves


def _seconds(rows: Sequence[Row]) -> np.ndarray:
    """Mean over seeds of the time at which each step of `_curves` was reached, `[points]`."""
    times: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        times[row.steps].append(row.seconds)
    return np.array([np.mean(times[steps]) for steps in sorted(times)])


def _panels(rows: Sequence[Row], report: Report) -> dict[str, list[Row]]:
    """What each panel shows, by its title: a world, or a group of variants."""
    if report.groups:
        groups = {title: [row for row in rows if row.variant in names] for title, names in report.groups}
        return {title: here for title, here in groups.items() if here}
    return {world: [row for row in rows if row.world == world] for world in sorted({row.world for row in rows})}


def _name(row: Row, report: Report) -> str:
    agent = "" if report.groups else row.agent if row.agent == "random" else row.agent.upper()
    return " ".join(filter(None, [agent, row.variant, f"({row.machine})" if report.by_machine else ""]))


def _sorted(names: Iterable[str], report: Report) -> list[str]:
    """As the report has them, or known agents first, in the order of their looks, each before its variants."""
    order = list(dict.fromkeys(variant for _, variants in report.groups for variant in variants)) or list(LOOKS)

    def rank(name: str) -> tuple[int, str]:
        is_known = name.__eq__ if report.groups else name.startswith
        return next((rank for rank, known in enumerate(order) if is_known(known)), len(order)), name

    return sorted(names, key=rank)


def _look(name: str, names: Sequence[str]) -> tuple[str, str]:
    if name in LOOKS:
        return LOOKS[name]
    free = [look for look in OTHER_LOOKS if look not in {LOOKS[other] for other in names if other in LOOKS}]
    others = [other for other in names if other not in LOOKS]
    return free[others.index(name) % len(free)]


def _heading(metric: str) -> str:
    return HEADINGS.get(metric, metric.removeprefix("share_").replace("_", " "))


def _number(number: float, scale: float) -> str:
    """A number with as many decimals as suit one of the size of `scale`."""
    if 0 < abs(scale) < 1e-3:
        return f"{number:.1e}"
    decimals = next((places for places, least in enumerate((100, 10, 0.1)) if abs(scale) >= least), 3 if scale else 0)
    return f"{number:,.{decimals}f}"


def main() -> None:
    options = parse_overrides(FiguresOptions(), sys.argv[1:], "benchmarks.figures", __doc__)
    chosen = _chosen(options)
    check_folder(options.folder, "--folder")
    for experiment, rows in chosen.items():
        report = REPORTS[experiment]
        for figure in report.figures:
            if not _panels([row for row in rows if row.metric == figure.metric], report):
                continue
            path = options.folder / f"{experiment}{figure.suffix}.png"
            draw(rows, figure, report, path)
            print(path)
        text = table(rows, report)
        for page in options.pages:
            try:
                page.write_text(put(page.read_text(encoding="utf-8"), experiment, text), encoding="utf-8")
            except (OSError, ValueError) as error:
                raise UsageError(f"{page}: {error}") from error
        if not options.pages:
            print(text)


if __name__ == "__main__":
    guarded(main)
