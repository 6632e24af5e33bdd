"""The plan of the house: who may import whom, that every package and preset is sound, and every option explained."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from agents.recurrent_ppo import RecurrentPPOConfig
from assembly import RunConfig
from training.options import models_in

ROOT = Path(__file__).parent.parent
ROOMS: dict[str, set[str]] = {
    "memory": set(),
    "envs": set(),
    "agents": {"memory"},
    # The loop and the evaluation know an agent by its protocol alone.
    "training": {"agents.agent"},
    # Who is recorded is an agent, known by its protocol; what is shown is what it remembers.
    "recall": {"agents.agent", "memory"},
}
"""What of ours each room may import, from the ground up; a name stands for itself and what is below it."""
PROGRAMS = {"train", "evaluate", "story", "assembly"}
SCRIPTS = {"benchmarks"}
"""What wires rooms together, and may import all of them."""
MEMORY_WORLDS = ("minigrid_memory", "hidden_goal_maze", "t_maze", "memory_chain")
"""What presets call worlds that need a memory."""
LONGEST_AGENT = 330
"""Lines; an agent is read top to bottom."""


def modules_below(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Full names of all modules (and perhaps names in them) that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}: a relative import hides which room it is of"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_below(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


@pytest.mark.parametrize("path", modules_below(*ROOMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_is_beneath_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    ours = {name for name in imported_by(path) if name.split(".")[0] in {*ROOMS, *PROGRAMS, *SCRIPTS}}
    forbidden = {name for name in ours if not is_below(name, {room, *ROOMS[room]})}
    assert not forbidden


def test_every_folder_of_modules_is_a_room_with_rules_or_a_script() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {*ROOMS, *SCRIPTS}


def test_what_is_installed_are_all_packages_of_the_rooms_and_the_programs() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in modules_below(*ROOMS)}
    assert set(setuptools["packages"]) == packages
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in setuptools["packages"])
    assert set(setuptools["py-modules"]) == PROGRAMS
    assert all((ROOT / f"{name}.py").is_file() for name in PROGRAMS)
    for package, patterns in setuptools["package-data"].items():
        assert all(list((ROOT / package).glob(pattern)) for pattern in patterns)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_a_valid_run_named_after_its_world_and_agent(path: Path) -> None:
    config = RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    names = [f"{config.env.name}_{config.agent.name}"]
    if isinstance(config.agent, RecurrentPPOConfig):
        # Over many cores one agent: what matters is the core, and which of the grid worlds.
        names += [f"{world}_{config.agent.core.name}" for world in MEMORY_WORLDS]
    assert path.stem == "quickstart" or any(path.stem.startswith(name) for name in names)


def config_models(model: type[BaseModel]) -> set[type[BaseModel]]:
    fields = model.model_fields.values()
    return {model}.union(*(config_models(below) for field in fields for below in models_in(field.annotation)))


@pytest.mark.parametrize("model", sorted(config_models(RunConfig), key=str), ids=lambda model: model.__name__)
def test_every_option_is_explained_and_checked(model: type[BaseModel]) -> None:
    assert model.__doc__ and model.__doc__.strip()
    assert [name for name, field in model.model_fields.items() if not (field.description or "").strip()] == []
    assert model.model_config.get("extra") == "forbid" and model.model_config.get("frozen")
    # Defaults are not validated unless they are given.
    defaults = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
    required = {"env": {"name": "grid_world"}, "agent": {"name": "random"}} if model is RunConfig else {}
    model.model_validate({**required, **defaults})


def test_the_models_of_all_worlds_and_agents_are_among_those_checked() -> None:
    names = {model.__name__ for model in config_models(RunConfig)}
    assert names >= {
        "RunConfig",
        "AtariConfig",
        "GridWorldConfig",
        "RandomConfig",
        "MFECConfig",
        "NECConfig",
        "DQNConfig",
        "RecurrentPPOConfig",
        "FeedForwardConfig",
    }


@pytest.mark.parametrize("path", modules_below("agents"), ids=lambda path: path.name)
def test_an_agent_is_short_enough_to_be_read_top_to_bottom(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_AGENT


@pytest.mark.parametrize(
    "path",
    [*modules_below(*ROOMS, *SCRIPTS), *(ROOT / f"{name}.py" for name in sorted(PROGRAMS))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_begins_by_saying_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
