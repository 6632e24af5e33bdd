"""What a run did, step by step, as lines that can be compared; written by processes that may be killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import xxhash
import yaml

import train
from tests.digits import make_digits
from training.command_line import guarded
from training.loop import Record, TrainingLoop
from training.sequence_loop import SequenceLoop

# Processes are forked from one that has imported everything: they start in milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.traces"])

STATE_EVERY = 10
"""Records between two digests of the agent's whole state."""


SOON = {"learning_starts": 40, "batch_size": 4, "epsilon_begin": 10, "epsilon_end": 200}
AGENTS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "mfec": {"name": "mfec", "key_size": 16, "epsilon": 0.1, "capacity": 60},
    "nec": {"name": "nec", "key_size": 8, "neighbours": 5, "capacity": 60, "replay_capacity": 400, **SOON},
    "rec": {
        "name": "rec",
        "architecture": "dense",
        "hidden": 16,
        "key_size": 8,
        "neighbours": 5,
        "capacity": 60,
        "replay_capacity": 400,
        "learning_rate": 1e-3,
        **SOON,
    },
    "dqn": {"name": "dqn", "features": 16, "updates_per_target": 7, "replay_capacity": 400, **SOON},
    "recurrent_ppo": {
        "name": "recurrent_ppo",
        "core": {"name": "gru", "hidden": 16},
        "features": 16,
        "rollout": 20,
        "truncation": 10,
        "learning_rate": 1e-3,
    },
    "memory_classifier": {
        "name": "memory_classifier",
        "credit": "hybrid",
        "sampled": 20,
        "reinstatement": "variational_autoencoder",
        "freshening": "sweep",
        "freshened": 7,
        "eviction": "uncertain",
        "drift_penalty": 1.0,
        "pretraining": 5,
        "hidden": 16,
        "key_size": 8,
        "capacity": 60,
        "learning_rate": 1e-3,
    },
    "ntm": {"name": "ntm", "hidden": 8, "slots": 6, "width": 4, "updates_per_halving": 100},
    "dnc": {
        "name": "dnc",
        "hidden": 8,
        "slots": 6,
        "width": 4,
        "forcing": "memory",
        "kept_memories": 20,
        "discriminator_batch": 4,
        "model_from": 0.0,
    },
}
WORLDS: dict[str, dict[str, Any]] = {
    "atari": {"name": "atari", "game": "breakout", "sticky_actions": 0.25, "max_frames_per_episode": 300},
    "grid_world": {"name": "grid_world", "id": "MiniGrid-Dynamic-Obstacles-6x6-v0", "max_steps": 25},
    "mnist": {"name": "mnist", "images_per_episode": 25},
    "copy": {"name": "copy", "bits": 2, "min_length": 2, "max_length": 2},
}
FOR = {"mnist": ("memory_classifier",), "copy": ("ntm", "dnc")}
"""Worlds for some agents only, who are for no other."""
_MANY_SIDED = [agent for agent in AGENTS if not any(agent in agents for agents in FOR.values())]
PAIRS = [(agent, world) for world in WORLDS for agent in FOR.get(world, _MANY_SIDED)]
"""Every agent with every world that it is for."""


def world_options(world: str, folder: Path) -> dict[str, Any]:
    """The options of a world; files that it needs are made below the folder."""
    return {**WORLDS[world], **({"dataset": str(make_digits(folder))} if world == "mnist" else {})}


def preset(folder: Path, agent: str, world: str, **options: Any) -> Path:
    path = folder / f"{world}_{agent}.yaml"
    common = {"num_envs": 3, "threads": 1, "steps_per_log": 45, "seed": 4}
    path.write_text(yaml.safe_dump({"env": world_options(world, folder), "agent": AGENTS[agent], **common, **options}))
    return path


def digest(tree: Any) -> str:
    """A hash of all leaves of a state, bit for bit, and of the places they hang in."""
    hasher = xxhash.xxh3_64()

    def add(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                hasher.update(repr(key).encode())
                add(value)
        elif isinstance(node, list | tuple):
            hasher.update(f"[{len(node)}]".encode())
            for value in node:
                add(value)
        elif isinstance(node, torch.Tensor | np.ndarray):
            array = np.ascontiguousarray(node.detach().numpy() if isinstance(node, torch.Tensor) else node)
            hasher.update(f"{array.dtype}{array.shape}".encode())
            hasher.update(array.tobytes())
        else:
            hasher.update(repr(node).encode())

    add(tree)
    return hasher.hexdigest()


def stride(loop: TrainingLoop | SequenceLoop) -> int:
    """Steps from one record to the next."""
    return loop.world.num_envs if isinstance(loop, TrainingLoop) else 1


def line(loop: TrainingLoop | SequenceLoop, record: Record) -> dict[str, Any]:
    """One step: actions, episodes and metrics, and now and then the digest of weights, memory and all else."""
    count = record.step // stride(loop)
    return {
        "step": record.step,
        "actions": record.actions.tolist(),
        "episodes": [[one.episode_return, one.length] for one in record.episodes],
        # The room that tables keep ahead is not state.
        "metrics": [{k: v for k, v in one.items() if k != "memory/megabytes"} for one in record.metrics],
        "state": digest(loop.agent.state_dict()) if count % STATE_EVERY == 0 else None,
    }


def trained(arguments: list[str], trace: Path, kill_after: int | None) -> None:
    """Run train.py with a trace of every step, and kill this process at once after some step.

    What it prints goes to a file beside the trace.
    """

    def traced(advance: Callable[[Any], Record]) -> Callable[[Any], Record]:
        def traced_advance(loop: Any) -> Record:
            record = advance(loop)
            with trace.open("a") as file:
                file.write(json.dumps(line(loop, record)) + "\n")
            if kill_after is not None and record.step >= kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return record

        return traced_advance

    with (
        trace.with_suffix(".out").open("w") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        mock.patch.object(TrainingLoop, "_advance", traced(TrainingLoop._advance)),
        mock.patch.object(SequenceLoop, "_advance", traced(SequenceLoop._advance)),
        mock.patch.object(sys, "argv", ["train.py", *arguments]),
    ):
        guarded(train.main)


def run_traced(arguments: list[object], trace: Path, kill_after: int | None = None) -> int | None:
    """`trained` in a process of its own; its exit code, -9 after a kill."""
    process = CONTEXT.Process(target=trained, args=([str(one) for one in arguments], trace, kill_after))
    process.start()
    process.join()
    return process.exitcode


def read(trace: Path) -> dict[int, dict[str, Any]]:
    """The lines of a trace by their step."""
    lines = map(json.loads, trace.read_text().splitlines())
    return {one["step"]: one for one in lines}
