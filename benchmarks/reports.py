"""What is shown of each experiment: the columns of its table, its figures, and the order of its variants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from envs.babi_stories import TASKS


@dataclass(frozen=True)
class Figure:
    """Curves of one metric, a panel for each world."""

    metric: str
    label: str
    axis: Literal["steps", "frames", "updates", "sequence updates", "seconds"] = "steps"
    """What its curves go along."""
    suffix: str = ""


@dataclass(frozen=True)
class Report:
    """What is shown of an experiment."""

    metrics: tuple[str, ...]
    """Columns of the table: what each run came to in the end."""
    figures: tuple[Figure, ...] = ()
    dopamine: bool = False
    """Whether it stands beside Dopamine's agents in their first million frames."""
    by_machine: bool = False
    """Whether numbers from different machines are different things."""
    source: str = ""
    """The experiment whose runs it shows, where that has another name."""
    agents: tuple[str, ...] = ()
    """The agents that it shows; empty: all."""
    variants: tuple[str, ...] = ()
    """The variants that it shows; empty: all."""
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Where all runs are of one agent: its variants in the order of the table, under titles that have a panel each."""


CLASSIFICATION = ("validation_accuracy", "milliseconds_per_update", "bytes_per_memory")
ATARI = ("return", "return_over_run", "eval_return", "exact_hit_rate")
STALENESS = ("key_drift", "neighbour_recall", "error_ratio", "diverged")
REC = (
    *("return", "eval_return", "neighbour_recall", "key_drift", "error_ratio"),
    *("steps_per_second", "megabytes", "peak_megabytes"),
)
SEARCHED = ("rounded_milliseconds", "float32_milliseconds", "rounded_share")
REC_FIGURES = (
    Figure("return", "Return of training episodes"),
    Figure("neighbour_recall", "Recall of fresh neighbours", suffix="_recall"),
    Figure("error_ratio", "Reinstatement error ratio", suffix="_error_ratio"),
)
BABI_TASKS = tuple(f"error_percent_task_{number}" for number in TASKS)
LESSONS = ("apart-1", "apart-250", "apart-1000", "apart-4000", "as-they-are")
REPORTS = {
    "quickstart": Report(
        ("return_last_20", "steps_per_second", "peak_megabytes"),
        (Figure("return", "Return of training episodes", axis="frames"),),
    ),
    "atari_1m": Report(
        ATARI,
        (
            Figure("return", "Return of training episodes", axis="frames"),
            Figure("exact_hit_rate", "Share of exact matches", axis="frames", suffix="_exact_matches"),
        ),
        dopamine=True,
        variants=("", "frozen-encoder"),
    ),
    "nec_settings": Report(
        ATARI,
        (
            Figure("return", "Return of training episodes", axis="frames"),
            Figure("neighbour_recall", "Recall of fresh neighbours", axis="frames", suffix="_recall"),
        ),
        source="atari_1m",
        agents=("nec",),
    ),
    "mfec_settings": Report(
        ATARI,
        (Figure("return", "Return of training episodes", axis="frames"),),
        source="atari_1m",
        agents=("mfec",),
    ),
    "grid_world": Report(("return", "eval_return"), (Figure("return", "Return of training episodes"),)),
    "rec_grid_world": Report(REC, REC_FIGURES),
    "rec_atari": Report(REC, tuple(replace(figure, axis="frames") for figure in REC_FIGURES)),
    "memory_bytes": Report(
        ("observation_bytes", "return", "megabytes"),
        (Figure("observation_bytes", "Bytes of an observation", axis="frames"),),
        variants=("frozen-encoder",),
    ),
    "kernel_delta": Report(
        (
            *("nearest_squared", "last_squared"),
            *(f"{what}_{delta}" for what in ("own_weight", "explained") for delta in ("1e-3", "1e-4", "1e-5", "1e-6")),
        )
    ),
    "lessons": Report(
        tuple(
            f"{scale}_{name}"
            for scale in ("rescaled", "values")
            for name in ("drawn", *(f"{trial}_300" for trial in LESSONS))
        )
    ),
    "hidden_goal_maze": Report(
        ("oracle_share", "hits", "eval_return", "steps_per_second"),
        (Figure("oracle_share", "Share of the oracle's hits"),),
    ),
    "minigrid_memory": Report(
        ("return", "eval_return", "steps_per_second"), (Figure("return", "Return of training episodes"),)
    ),
    "memory_worlds": Report(
        ("return", "eval_return", "steps_per_second"), (Figure("return", "Return of training episodes"),)
    ),
    "copy": Report(
        (
            *("wrong_bits_per_sequence", "wrong_bits_length_20", "wrong_bits_length_40", "wrong_bits_length_100"),
            "updates_per_second",
        ),
        (Figure("wrong_bits_per_sequence", "Wrong bits of a sequence", axis="sequence updates"),),
    ),
    "forcing_copy": Report(
        ("correct_predictions", "wrong_bits_per_sequence", "memory_accuracy", "updates_per_second"),
        (Figure("correct_predictions", "Correct predictions so far", axis="sequence updates"),),
    ),
    "sequential_mnist": Report(
        (
            *("test_nll_nats", "test_bits_per_dimension", "hidden_accuracy", "memory_accuracy", "forcing"),
            "updates_per_second",
        ),
        (Figure("nats_per_sequence", "Nats of a training image", axis="sequence updates"),),
    ),
    "neural_memory_speed": Report(
        ("milliseconds_per_step", "peak_megabytes", "speedup_over_pypi_dnc"), by_machine=True
    ),
    "world_speed": Report(("steps_per_second",), by_machine=True),
    "core_speed": Report(("milliseconds_per_step", "peak_megabytes", "parameters", "memory_numbers"), by_machine=True),
    "dictionary": Report(
        tuple(f"{what}_{pairs}" for what in ("right_bits_pairs", "whole_pairs") for pairs in (4, 8, 16)),
        (Figure("nats_per_sequence", "Nats of a sequence", axis="sequence updates"),),
    ),
    "babi": Report(
        ("mean_error_percent", "failed_tasks", *BABI_TASKS, "updates_per_second"),
        (Figure("error_percent", "Wrong answers, percent", axis="sequence updates"),),
    ),
    "throughput": Report(
        (
            "steps_per_second",
            *(f"share_{part}" for part in ("environment", "encoding", "lookup", "write", "update", "other")),
            "peak_megabytes",
            "memory_megabytes",
            "memories",
        ),
        by_machine=True,
    ),
    "rec_throughput": Report(
        (
            "steps_per_second",
            *(f"share_{part}" for part in ("environment", "encoding", "lookup", "write", "update", "other")),
            *(f"share_update_{part}" for part in ("encoding", "lookup", "reinstating", "backward", "optimiser")),
            *("peak_megabytes", "memory_megabytes"),
        ),
        by_machine=True,
    ),
    "recall_cost": Report(
        (
            *("slowdown_percent", "looked_share", "open_seconds", "scrub_milliseconds", "page_megabytes"),
            "record_megabytes",
        )
    ),
    "credit_assignment": Report(
        (*CLASSIFICATION, *STALENESS),
        (
            Figure("validation_accuracy", "Validation accuracy", axis="updates"),
            Figure("validation_accuracy", "Validation accuracy", axis="seconds", suffix="_seconds"),
        ),
        groups=(
            (
                "As in the paper",
                (
                    *("frozen", "true-observations", "true-observations-held", "backpropagation"),
                    *("exact", "approximate", "synthetic"),
                ),
            ),
            (
                "Through a decoder",
                (
                    "exact",
                    "exact-sampled",
                    "exact-sampled-pretrained",
                    "exact-sampled-pretrained-held",
                    "exact-sampled-offline-held",
                    "approximate-sampled-held",
                    "approximate-sampled-pretrained-held",
                    "approximate-sampled-offline-held",
                    "approximate-sampled-offline-anchored",
                    "vae-approximate-sampled-pretrained-held",
                ),
            ),
            (
                "With the true observation, or none",
                (
                    "lossless-approximate-sampled",
                    "lossless-approximate-sampled-trust",
                    "lossless-approximate-sampled-freshened",
                    "lossless-approximate-sampled-held",
                    "lossless-approximate-sampled-anchored",
                    "lossless-approximate-sampled-100-anchored",
                    "lossless-exact-sampled-held",
                    "lossless-exact-sampled-100-held",
                    "synthetic-sampled-held",
                    "synthetic-label-sampled-held",
                    "hybrid-lossless-sampled-100-held",
                    "trainable-keys",
                ),
            ),
        ),
    ),
    "equal_bytes": Report(
        CLASSIFICATION,
        groups=tuple(
            (
                f"{budget:,} bytes",
                tuple(
                    f"{budget:04d}-{name}" for name in ("frozen", "synthetic", "autoencoder", "vae", "lossless", "raw")
                ),
            )
            for budget in (128, 256, 512, 1_024)
        ),
    ),
    "freshening": Report(
        (*CLASSIFICATION, *STALENESS),
        (
            Figure("validation_accuracy", "Validation accuracy", axis="updates"),
            Figure("neighbour_recall", "Recall of fresh neighbours", axis="updates", suffix="_recall"),
        ),
        groups=(
            (
                "True observations",
                (
                    "frozen",
                    "lossless",
                    "lossless-recall",
                    "lossless-sweep",
                    "lossless-held",
                    "lossless-recall-held",
                    "lossless-anchored",
                    "lossless-drift-map",
                    "lossless-fast",
                    "lossless-recall-fast",
                    "lossless-held-fast",
                ),
            ),
            (
                "Through a decoder",
                (
                    "autoencoder",
                    "autoencoder-recall",
                    "autoencoder-held",
                    "vae",
                    "vae-recall",
                    "vae-recall-trusted",
                    "vae-uncertain-first",
                ),
            ),
        ),
    ),
    "search_speed": Report(
        (
            *(f"{kind}_{what}" for kind in ("own", "each") for what in SEARCHED),
            *("asked_again_per_thousand", "memories"),
        ),
        by_machine=True,
    ),
    "checkpoint_cost": Report(
        ("stall_seconds", "save_seconds", "extra_peak_megabytes", "megabytes_on_disk"), by_machine=True
    ),
}
