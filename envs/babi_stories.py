"""The stories of bAbI (Weston et al. 2015, arXiv 1502.05698): found, read, and turned into numbers of words.

A story is read as in Graves et al. 2016: with all its questions, in lower case, full stops and question marks being
words of their own. After a question mark stands a placeholder for every word of the answer, which is due there.
"""

from __future__ import annotations

import difflib
import functools
import lzma
import os
import re
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.mnist import DATA_VARIABLE

PLACEHOLDER, FULL_STOP, QUESTION_MARK = "-", ".", "?"
WORDS = (
    PLACEHOLDER,
    FULL_STOP,
    QUESTION_MARK,
    *"""
    a above afraid after afternoon afterwards and antoine apple are back bathroom bedroom before below bernhard
    bigger bill blue bored box brian carrying cat cats chest chocolate chocolates cinema color container daniel did
    discarded do does down dropped e east either emily evening fit fits following football fred frog from garden gave
    gertrude get give go got grabbed gray green greg hallway handed he how hungry in inside is jason jeff jessica john
    journeyed julie julius kitchen left lily lion longer many mary maybe mice milk morning mouse moved n no none north
    not nothing objects of office one or pajamas park passed picked pink put received rectangle red rhino right s
    sandra school she sheep south sphere square suitcase sumit swan than that the then there they thirsty this three
    tired to took travelled triangle two up w was went west what where white who why will winona wolf wolves yann
    yellow yes yesterday you
    """.split(),
)
"""All 159 words of the twenty tasks, by number: the same whichever tasks are taken, so that models fit them all."""

_NUMBERS = {word: number for number, word in enumerate(WORDS)}

_PEOPLE, _OTHERS = "daniel john mary sandra", "bill fred julie mary"
_ROOMS, _TOWN = "bathroom bedroom garden hallway kitchen office", "bedroom cinema kitchen office park school"
_THINGS = "apple football milk"
_ALIKE = {
    **dict.fromkeys((1, 9, 12, 13), (_PEOPLE, _ROOMS)),
    **dict.fromkeys((2, 3, 6, 7, 8), (_PEOPLE, _ROOMS, _THINGS)),
    **dict.fromkeys((4, 19), (_ROOMS,)),
    5: ("bill fred jeff mary", _ROOMS),
    **dict.fromkeys((10, 14), (_OTHERS, _TOWN)),
    # Who "he" and "she" are is what this task asks.
    11: ("daniel john", "mary sandra", _ROOMS),
    # Not the sheep, which are written alike whether one or many.
    15: ("emily gertrude jessica winona", "cat/cats mouse/mice wolf/wolves"),
    16: ("bernhard brian greg julius lily", "frog lion rhino swan", "gray green white yellow"),
    # Where the hungry go is fixed.
    20: ("antoine jason sumit yann",),
}
ALIKE = {
    task: [np.array([[_NUMBERS[form] for form in word.split("/")] for word in group.split()]) for group in groups]
    for task, groups in _ALIKE.items()
}
"""Words that may change places all over a story, question and answer with them, by task: arrays `[words, forms]`.

The simulation that wrote the stories drew them all alike. In tasks 17 and 18 there are none: a blue square, or a box
of chocolates, has several words."""

TWO_HOPS = 15
"""The task whose questions are of what a kind of animal is afraid of, and name one of that kind."""

TASKS = tuple(range(1, 21))
SIZES = {"1k": "en", "10k": "en-10k"}
"""Folders of the data set, by questions to train on of each task."""

_TOKEN = re.compile(r"[^\W\d_]+|\S")
_FILE = re.compile(r"(?:^|/)(en|en-10k)/qa(\d+)_(?:[a-z-]+_)?(train|test)\.txt$")
_ARCHIVES = ("*.tar.xz", "*.tar.gz", "*.tgz", "*.tar")
_ADDRESS = "http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz"
_CHECKSUM = "sha256:0364ebde659f14d11bc21744516c5ec49d3d06cb692733f66680771244998898"

_Key = tuple[str, int, str]
"""Folder, task and split of a file."""


class Stories(NamedTuple):
    """Some stories, one after the other."""

    words: np.ndarray
    """All words by number, uint8 `[words]`."""
    answers: np.ndarray
    """The word that is due at each place, 0 where none is, uint8 `[words]`."""
    starts: np.ndarray
    """Where each story begins, and after them the end, int64 `[stories + 1]`."""
    tasks: np.ndarray
    """Which task each is of, int64 `[stories]`."""


def numbers_of(text: str) -> bytes:
    """The words of a text by number.

    Raises:
        ValueError: on what is no word of bAbI.
    """
    try:
        return bytes(_NUMBERS[word] for word in _TOKEN.findall(text.lower()))
    except KeyError as error:
        word = error.args[0]
        near = difflib.get_close_matches(word, WORDS, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"its {len(WORDS) - 3} are WORDS in envs/babi_stories.py"
        raise ValueError(f"{word!r} is no word of bAbI; {mend}") from error


def encode(text: str, thinking_steps: int = 0) -> np.ndarray:
    """A story written as text as inputs of the task: numbers of its words, int64 `[words]`.

    After a question mark, a placeholder is read while a word of the answer is due. It may be written: `- -` where two
    words are due. A question mark without one gets one. Thinking steps are put before them, as `with_thinking` does.

    Raises:
        ValueError: on what is no word of bAbI, or a placeholder that stands elsewhere.
    """
    if re.search(r"(?<![?-])-", re.sub(r"\s", "", text)):
        raise ValueError("'-' stands where a word of an answer is due, right after a question mark")
    due = re.sub(r"\?(?!\s*-)", "? -", text).replace("?", "?" + " -" * thinking_steps)
    return np.frombuffer(numbers_of(due), dtype=np.uint8).astype(np.int64)


def decode(numbers: np.ndarray) -> str:
    """The text of inputs `[words]`, in lower case, placeholders being dashes.

    Without thinking steps, `encode` gives the same numbers again.
    """
    return re.sub(r" (?=[.?])", "", " ".join(WORDS[number] for number in numbers))


def parse(text: str, task: int, source: str) -> Stories:
    """The stories of a file.

    A line is a number, which is 1 where a story begins, and a statement; or a question, a tab, its answer (words with
    commas between), and perhaps another tab and supporting facts, which are not read.

    Args:
        text: of the file.
        task: it is of.
        source: its name, for errors.

    Raises:
        ValueError: naming the line that is not as it should be.
    """
    words, answers, starts = bytearray(), bytearray(), list[int]()
    # Few sentences are all there are: each is taken apart once, which is ten times as fast.
    known = functools.cache(numbers_of)
    for line_number, line in enumerate(text.splitlines(), 1):
        place, _, sentence = line.partition(" ")
        statement, *answer = sentence.split("\t")[:2]
        try:
            if not place.isdecimal() or not (starts or place == "1"):
                raise ValueError("a line begins with its number in the story, of which the first is 1")
            if place == "1":
                starts.append(len(words))
            read = known(statement)
            due = known(answer[0].replace(",", " ")) if answer else b""
        except ValueError as error:
            raise ValueError(f"{source}, line {line_number}: {error}") from error
        words += read + bytes(len(due))
        answers += bytes(len(read)) + due
    if not any(answers):
        raise ValueError(f"{source} has no question")
    bounds = np.array([*starts, len(words)])
    read_words, due_words = (np.frombuffer(bytes(numbers), dtype=np.uint8) for numbers in (words, answers))
    return Stories(read_words, due_words, bounds, np.full(len(starts), task))


def with_thinking(stories: Stories, steps: int) -> Stories:
    """The stories with more placeholders between each question and its answer, at which nothing is due."""
    is_due = stories.answers > 0
    # What is due follows the question mark, so that no two answers touch.
    begins = np.flatnonzero(is_due & ~np.roll(is_due, 1))
    places = np.repeat(begins, steps)
    starts = stories.starts + steps * np.searchsorted(begins, stories.starts)
    return stories._replace(
        words=np.insert(stories.words, places, 0), answers=np.insert(stories.answers, places, 0), starts=starts
    )


def with_first_hops(words: np.ndarray, answers: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A story of task 15 and its answers, some of whose questions ask for the first of their two steps alone.

    "what is emily afraid of?" becomes "what is emily?", and the answer the kind she was said, once, to be. Placeholders
    behind the story keep its length.

    Args:
        words: of the story by number, `[words]`.
        answers: that are due, 0 where none is, `[words]`.
        chosen: which of its questions, bool `[questions]`.
    """
    answers = answers.copy()
    begins = np.flatnonzero(words == _NUMBERS["what"])[chosen]
    is_a = (words[1:-2] == _NUMBERS["is"]) & (words[2:-1] == _NUMBERS["a"])
    for begin in begins:
        (said,) = np.flatnonzero(is_a & (words[:-3] == words[begin + 2]))
        answers[begin + np.flatnonzero(answers[begin:])[0]] = words[said + 3]
    afraid_of = np.concatenate([begins + 3, begins + 4])
    behind = np.zeros_like(words, shape=len(afraid_of))
    return np.append(np.delete(words, afraid_of), behind), np.append(np.delete(answers, afraid_of), behind)


def load_stories(size: str, tasks: tuple[int, ...], split: str) -> Stories:
    """The stories of some tasks: of `split` train or test, and with `size` 1k or 10k questions of each to train on.

    They are looked for in the folder `babi` below `$REINSTATE_DATA`, unpacked or in an archive; without the variable
    the official archive is downloaded into the user's cache, with its checksum. They are read once a process.

    Where only the 1k file of a task is there, its 10k runs train on that, and a warning says so.

    Raises:
        ValueError: if they are not there, cannot be downloaded, or are not what they should be.
    """
    return _load(_find(), size, tasks, split)


@functools.lru_cache(maxsize=4)
def _load(root: Path, size: str, tasks: tuple[int, ...], split: str) -> Stories:
    folder = SIZES[size]
    texts = _texts(root, {(each, task, split) for each in {folder, "en"} for task in tasks})
    parts = []
    for task in tasks:
        key = (folder, task, split)
        if key not in texts and split == "train" and ("en", task, split) in texts:
            warnings.warn(
                f"bAbI: {folder}/qa{task}_*_{split}.txt is not in {root}; task {task} trains on its 1k file instead",
                stacklevel=4,
            )
            key = ("en", task, split)
        name = f"{key[0]}/qa{task}_*_{split}.txt"
        if key not in texts:
            raise ValueError(f"no {name} in {root}; {_mend(root.parent)}")
        parts.append(parse(texts[key], task, f"{root}: {name}"))
    words, answers, starts, numbers = zip(*parts, strict=True)
    lengths = np.concatenate([np.diff(each) for each in starts])
    return Stories(
        np.concatenate(words), np.concatenate(answers), np.append(0, lengths.cumsum()), np.concatenate(numbers)
    )


def _find() -> Path:
    """The folder, or the archive, in which the stories are."""
    if DATA_VARIABLE not in os.environ:
        return _download()
    folder = Path(os.environ[DATA_VARIABLE]) / "babi"
    if any(folder.glob("**/qa*_*.txt")):
        return folder
    for pattern in _ARCHIVES:
        for path in sorted(folder.glob(pattern)):
            return path
    raise ValueError(f"no bAbI in {folder}; {_mend(folder)}")


def _download() -> Path:
    # Costs 0.1 s, which only those who download need to wait for.
    import pooch

    name = _ADDRESS.rpartition("/")[2]
    try:
        return Path(
            pooch.retrieve(_ADDRESS, _CHECKSUM, fname=name, path=pooch.os_cache("reinstate") / "babi", progressbar=True)
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"bAbI cannot be downloaded ({reason}); set ${DATA_VARIABLE} to a folder with babi/{name}"
        ) from error


def _mend(folder: Path) -> str:
    return f"put {_ADDRESS} into {folder}, or what it unpacks to; see ${DATA_VARIABLE}"


def _texts(root: Path, wanted: set[_Key]) -> dict[_Key, str]:
    """The texts of the files that are wanted and there."""
    texts = {}
    try:
        for name, content in _files(root, wanted):
            texts[name] = content.decode()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{root} cannot be read: {error}") from error
    return texts


def _files(root: Path, wanted: set[_Key]) -> Iterator[tuple[_Key, bytes]]:
    if root.is_dir():
        for path in root.glob("**/qa*_*.txt"):
            if (key := _key(path.as_posix())) in wanted:
                yield key, path.read_bytes()
        return
    # One pass from the beginning: to find one file after the other would unpack the archive as often.
    with tarfile.open(root) as archive:
        for member in archive:
            if (key := _key(member.name)) in wanted and (file := archive.extractfile(member)):
                yield key, file.read()


def _key(name: str) -> _Key | None:
    match = _FILE.search(name)
    return (match[1], int(match[2]), match[3]) if match else None
