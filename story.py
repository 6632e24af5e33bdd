"""Read a story to a trained model with a neural memory: what it answers, what it wrote, and what it recalled.

    python story.py runs/NAME "Mary moved to the hallway. Daniel went to the garden. Where is Daniel?"
    python story.py runs/NAME                              the story of Figure 3 of the article on MNM
    python story.py runs/NAME "..." --picture out.png      the heat maps in a file of that name

It is for runs of MNM on bAbI (configs/babi_mnm.yaml), and reads the words of bAbI; after every question mark it
answers. Printed are the answer and the earlier words whose keys are the most like the key that was read for it. The
picture has four heat maps, each of every word (down) beside every word before it (to the right): above, the keys and
the values that are written, with those written before, as in Figure 3; below, the keys that are read, and what is read
for them, with the keys and the values written before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from agents import TaskSpec
from agents.sequence_model import SequenceModel, make_sequence_model
from agents.sequence_pictures import WRITTEN_AND_READ
from agents.similarity_pictures import WORD_CELL, beside, heat_map, titled
from envs.babi import BabiConfig
from envs.babi_stories import FULL_STOP, PLACEHOLDER, WORDS, encode
from memory.neural.recollecting import similarity_maps
from train import load_checkpoint, open_run, restoring
from training.command_line import ArgumentParser, UsageError, guarded

ARTICLE = (
    "Mary travelled to the garden. Mary moved to the bedroom. Sandra went to the bathroom. Daniel travelled to the "
    "bathroom. Mary travelled to the office. Daniel moved to the hallway. John moved to the kitchen. Daniel went to "
    "the garden. Where is Daniel?"
)
"""The story of the article's Figure 3."""
MOST_WORDS = 400
"""Of a story: with so many, the picture has some 95 million pixels."""
LISTED = 5
"""Earlier words that are printed with an answer."""
_TITLES = {
    "key_similarity": "keys written, and those written before",
    "value_similarity": "values written, and those written before",
    "read_key_similarity": "keys read, and those written before",
    "read_value_similarity": "what is read, and values written before",
}


@dataclass(frozen=True)
class Reading:
    """What came of a story."""

    words: list[str]
    chances: np.ndarray
    """Of every word to be the answer, at each step, `[time, words]`."""
    maps: dict[str, np.ndarray]
    """Those of `similarity_maps`, each `[time, time]`."""
    thinking_steps: int = 0
    """Placeholders before each answer, at which nothing is due."""

    def questions(self) -> Iterator[tuple[int, str]]:
        """The steps at which a word of an answer is due, and the question it is due to."""
        asked: list[str] = []
        waited = 0
        for time, word in enumerate(self.words):
            if word == PLACEHOLDER:
                waited += 1
                if waited > self.thinking_steps:
                    yield time, " ".join(asked)
                continue
            waited = 0
            # A sentence begins after a full stop, and after an answer.
            if time and self.words[time - 1] in (FULL_STOP, PLACEHOLDER):
                asked = []
            asked.append(word)

    def recalled(self, time: int, most: int) -> list[int]:
        """The earlier words whose keys are the most like the one that is read at a step, the most similar first."""
        order = np.argsort(-self.maps["read_key_similarity"][time, :time], kind="stable")
        return [step for step in order.tolist() if self.words[step] != PLACEHOLDER][:most]


def encoded(story: str, thinking_steps: int) -> np.ndarray:
    """The words of a story by number, int64 `[words]`, placeholders where answers are due and before.

    Raises:
        UsageError: on what is no word of bAbI, on nothing, or on too much.
    """
    try:
        numbers = encode(story, thinking_steps)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not 2 <= len(numbers) <= MOST_WORDS:
        raise UsageError(
            f"a story should have 2 to {MOST_WORDS} words, with full stops and the steps at which answers are thought "
            f"over and due, got {len(numbers)}"
        )
    return numbers


def load_model(path: Path) -> tuple[SequenceModel, BabiConfig]:
    """The model of a run as it was at the newest good checkpoint, on the CPU; and how it read stories.

    Raises:
        UsageError: if it is no MNM that was trained on bAbI, or cannot be loaded.
    """
    run, config = open_run(path)
    if not isinstance(config.env, BabiConfig) or config.agent.name != "mnm":
        raise UsageError(
            f"{path} is a run of {config.agent.name} on {config.env.name}: stories are for mnm on babi, as of "
            "configs/babi_mnm.yaml"
        )
    _, state = load_checkpoint(run, config)
    model = make_sequence_model(config.agent, TaskSpec(len(WORDS), len(WORDS), categorical=True), "cpu")
    with restoring(run):
        model.load_state_dict(state["agent"])
    return model, config.env


def read(model: SequenceModel, numbers: np.ndarray, thinking_steps: int = 0) -> Reading:
    """Read words by number, int64 `[time]`, with so many thinking steps among them, to a model."""
    inputs = numbers[:, None]
    with torch.no_grad():
        logits, steps = model.predict(torch.from_numpy(inputs), WRITTEN_AND_READ, eager=True)
    said = (steps.recorded[name][:, 0].numpy() for name in WRITTEN_AND_READ)
    words, chances = [WORDS[number] for number in numbers], logits[:, 0].softmax(-1).numpy()
    return Reading(words, chances, similarity_maps(*said), thinking_steps)


def describe(reading: Reading) -> Iterator[str]:
    """The answers, each with the words that were recalled for it, line by line."""
    values = reading.maps["read_value_similarity"]
    for time, question in reading.questions():
        answer = int(reading.chances[time].argmax())
        yield f"{question} {WORDS[answer]} ({100 * reading.chances[time, answer]:.3g} %)"
        yield "    similarity  value similarity  word"
        for moment in reading.recalled(time, LISTED):
            around = [*reading.words[max(0, moment - 4) : moment], f"[{reading.words[moment]}]"]
            similarity = reading.maps["read_key_similarity"][time, moment]
            yield f"    {similarity:<10.3f}  {values[time, moment]:<16.3f}  {moment}: {' '.join(around)}"


def picture(reading: Reading) -> np.ndarray:
    """The heat maps of a story, uint8 `[height, width, 3]`: those of writing above those of reading."""
    maps = [titled(heat_map(reading.maps[name], WORD_CELL, reading.words), title) for name, title in _TITLES.items()]
    return np.concatenate([beside(maps[:2]), beside(maps[2:])])


def main() -> None:
    parser = ArgumentParser("story.py", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("story", nargs="?", default=ARTICLE, help="what is read; by default the article's example")
    parser.add_argument("--picture", type=Path, help="file for the heat maps (.png); by default named after the run")
    arguments = parser.parse_args()
    path = arguments.picture or Path(f"{arguments.run.resolve().name}-story.png")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UsageError(f"--picture takes the name of a .png in a folder that is there, not {path}")
    model, stories = load_model(arguments.run)
    numbers = encoded(arguments.story, stories.thinking_steps)
    reading = read(model, numbers, stories.thinking_steps)
    for line in [*describe(reading)] or ["nothing is asked: answers come after question marks"]:
        print(line)
    content = cv2.imencode(".png", cv2.cvtColor(picture(reading), cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--picture: {path} cannot be written: {error.strerror}") from error
    print(f"picture: {path}")


if __name__ == "__main__":
    guarded(main)
