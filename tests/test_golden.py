"""Golden traces: what each agent did on the day it was right, to be kept by every change that is not meant to alter it.

On the processor and with the version of torch that they were recorded with, every action, metric and state must be the
same bit for bit. Elsewhere arithmetic rounds otherwise, and what rounding cannot change is compared: the actions up to
the first update, and the losses of that to a thousandth.

    python -m tests.test_golden        record them anew, after a change that is meant to alter them
"""

from __future__ import annotations

import itertools
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import assembly
from tests import traces
from tests.traces import AGENTS, PAIRS, world_options

FOLDER = Path(__file__).parent / "golden"
RECORDS = 110


def processor() -> str:
    """What tells processors apart that round alike: on Linux vendor, family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model"))


MACHINE = {
    "torch": torch.__version__.split("+")[0],
    "cpu": torch.backends.cpu.get_cpu_capability(),
    "processor": processor(),
}


def lived(agent: str, world: str, folder: Path) -> list[dict[str, Any]]:
    options = {"env": world_options(world, folder), "agent": AGENTS[agent], "num_envs": 3, "seed": 4}
    config = assembly.RunConfig.model_validate(options)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loop, _ = assembly.make_loop(config)
        lines = [traces.line(loop, record) for record in itertools.islice(loop.run(10**6), RECORDS)]
        loop.close()
    finally:
        torch.set_num_threads(threads)
    # As they come back from a file.
    return json.loads(json.dumps(lines))


def path_of(agent: str, world: str) -> Path:
    return FOLDER / f"{world}_{agent}.json"


@pytest.mark.parametrize(("agent", "world"), PAIRS)
def test_an_agent_does_what_it_did(agent: str, world: str, tmp_path: Path) -> None:
    golden = json.loads(path_of(agent, world).read_text())
    lines = lived(agent, world, tmp_path)
    assert len(lines) == len(golden["lines"]) == RECORDS
    if golden["machine"] == MACHINE:
        for line, expected in zip(lines, golden["lines"], strict=True):
            assert line == expected
        return
    for line, expected in zip(lines, golden["lines"], strict=True):
        assert line["actions"] == expected["actions"] and line["episodes"] == expected["episodes"]
        for metrics, expected_metrics in zip(line["metrics"], expected["metrics"], strict=True):
            assert metrics == pytest.approx(expected_metrics, rel=1e-3, abs=1e-4)
            if any(tag.startswith("losses/") for tag in metrics):
                return


def record() -> None:
    FOLDER.mkdir(exist_ok=True)
    for agent, world in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            lines = ",\n".join(map(json.dumps, lived(agent, world, Path(folder))))
        path_of(agent, world).write_text(f'{{"machine": {json.dumps(MACHINE)}, "lines": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    record()
