"""Stories in the format of bAbI, written by hand: to test with where the data set is not."""

from __future__ import annotations

from pathlib import Path

TRAIN = {
    1: (
        "1 Mary moved to the bathroom.\n"
        "2 John went to the hallway.\n"
        "3 Where is Mary? \tbathroom\t1\n"
        "4 Daniel went back to the hallway.\n"
        "5 Where is Daniel? \thallway\t4\n"
        "1 Sandra went to the garden.\n"
        "2 Where is Sandra? \tgarden\t1\n"
    ),
    8: (
        "1 Mary got the milk there.\n"
        "2 Mary took the apple there.\n"
        "3 What is Mary carrying? \tmilk,apple\t1 2\n"
        "4 Mary dropped the milk.\n"
        "5 What is Mary carrying? \tapple\t2 4\n"
    ),
    19: "1 The garden is west of the office.\n2 How do you go from the office to the garden?\tw,w\t1\n",
}
"""The text of each task's file."""
TEST = {
    1: "1 John moved to the office.\n2 Where is John? \toffice\t1\n",
    8: "1 Mary got the milk there.\n2 What is Mary carrying? \tmilk\t1\n",
    19: "1 The park is north of the school.\n2 How do you go from the school to the park?\tn,n\t1\n",
}
NAMES = {1: "single-supporting-fact", 8: "lists-sets", 19: "path-finding"}


def write(folder: Path, size: str = "en-10k", train: dict[int, str] = TRAIN) -> Path:
    """Write the files below a folder as the unpacked archive has them."""
    below = folder / "babi" / "tasks_1-20_v1-2" / size
    below.mkdir(parents=True)
    for split, texts in (("train", train), ("test", TEST)):
        for task, text in texts.items():
            (below / f"qa{task}_{NAMES[task]}_{split}.txt").write_text(text)
    return below
