"""bAbI: stories as they are written, answers due where they are asked for, batches of all stories, and clear errors."""

from __future__ import annotations

import itertools
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import envs
from envs.babi import Babi, BabiConfig, make_babi
from envs.babi_stories import ALIKE, SIZES, TASKS, WORDS, Stories, decode, encode, load_stories, parse
from envs.mnist import DATA_VARIABLE
from envs.sequence_task import Sequences
from tests.envs.babi_data import TRAIN, write

HAS_DATA = (Path(os.environ.get(DATA_VARIABLE, "")) / "babi").is_dir()
ALL = (1, 8, 19)
READ = [
    "mary moved to the bathroom. john went to the hallway. where is mary? - daniel went back to the hallway. "
    "where is daniel? -",
    "sandra went to the garden. where is sandra? -",
    "mary got the milk there. mary took the apple there. what is mary carrying? - - mary dropped the milk. "
    "what is mary carrying? -",
    "the garden is west of the office. how do you go from the office to the garden? - -",
]
"""The stories written by hand, as they are to be read."""
DUE = [["bathroom", "hallway"], ["garden"], ["milk", "apple", "apple"], ["w", "w"]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data sets, with stories written by hand."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    write(tmp_path)
    return tmp_path


def stories_of(lengths: list[int], numbers: list[int] | None = None, **options: Any) -> Babi:
    """Stories of some lengths, each of its own word and a last one that is due, of task 1 or of tasks by number."""
    words = np.concatenate([np.full(length, number + 3) for number, length in enumerate(lengths)]).astype(np.uint8)
    bounds = np.append(0, np.cumsum(lengths))
    answers = np.zeros_like(words)
    answers[bounds[1:] - 1] = words[bounds[1:] - 1]
    stories = Stories(words, answers, bounds, np.array(numbers or [1] * len(lengths)))
    return Babi(BabiConfig(**{"tasks": (1,), **options}), stories, np.random.default_rng(0))


def told(inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> list[tuple[str, list[str]]]:
    """What each sequence of a batch reads, without what fills it up, and what is due in it."""
    texts = []
    for column in range(inputs.shape[1]):
        last = np.flatnonzero(mask[:, column])[-1]
        due = [WORDS[number] for number in targets[mask[:, column], column]]
        texts.append((decode(inputs[: last + 1, column]), due))
        assert not inputs[last + 1 :, column].any()
    return texts


def test_stories_are_read_with_all_their_questions_and_never_their_answers(data: Path) -> None:
    task = make_babi(BabiConfig(tasks=ALL), np.random.default_rng(0))
    inputs, targets, mask = task.take(np.arange(len(task)))
    assert sorted(told(inputs, targets, mask)) == sorted(zip(READ, DUE, strict=True))
    assert inputs.dtype == targets.dtype == np.int64 and mask.dtype == bool
    assert not targets[~mask].any() and not inputs[mask].any()
    assert task.task_numbers.tolist() == [1, 19, 1, 8], "by length"
    assert task.categorical and task.input_size == task.target_size == len(WORDS) == 159


def test_an_answer_is_due_right_after_its_question_mark(data: Path) -> None:
    inputs, _, mask = make_babi(BabiConfig(tasks=ALL), np.random.default_rng(0)).take(np.arange(4))
    for column in range(4):
        begins = [
            time for time, (before, now) in enumerate(itertools.pairwise(mask[:, column].tolist()), 1) if now > before
        ]
        assert begins == [time + 1 for time, word in enumerate(inputs[:, column]) if WORDS[word] == "?"]


def test_thinking_steps_come_between_a_question_and_its_answer(data: Path) -> None:
    task = make_babi(BabiConfig(tasks=ALL, thinking_steps=2), np.random.default_rng(0))
    batch = task.take(np.arange(len(task)))
    read = [text.replace("?", "? - -") for text in READ]
    assert sorted(told(*batch)) == sorted(zip(read, DUE, strict=True))
    for column in range(len(task)):
        due = np.flatnonzero(batch.mask[:, column])
        before = [WORDS[word] for word in batch.inputs[due[0] - 3 : due[0], column]]
        assert before == ["?", "-", "-"] and not batch.mask[due[0] - 2 : due[0], column].any()
    for text, thinking in zip(READ, read, strict=True):
        assert decode(encode(text, 2)) == thinking
    longest = max(len(encode(text)) for text in READ)
    config = BabiConfig(tasks=ALL, thinking_steps=2, longest_story=longest)
    assert len(make_babi(config, np.random.default_rng(0))) == len(READ), "words are counted without"


def test_a_text_as_inputs_and_back() -> None:
    text = "Mary travelled to the garden. Where is Daniel?"
    numbers = encode(text)
    assert [WORDS[number] for number in numbers] == [
        *("mary", "travelled", "to", "the", "garden", ".", "where", "is", "daniel", "?", "-")
    ]
    assert numbers.dtype == np.int64
    assert decode(numbers) == "mary travelled to the garden. where is daniel? -"
    for read in READ:
        assert decode(encode(read)) == read
        np.testing.assert_array_equal(encode(decode(encode(read))), encode(read))
    assert decode(encode("Where is Mary?\n-  -\nWhere is John ?")) == "where is mary? - - where is john? -"


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("Where is Mery?", "'mery' is no word of bAbI; did you mean 'mary'?"),
        ("Mary went 3 times.", "'3' is no word of bAbI; its 156 are WORDS in envs/babi_stories.py"),
        ("Where is Máry?", "'máry' is no word of bAbI; did you mean 'mary'?"),
        (
            "Mary got the milk - where is Mary?",
            "'-' stands where a word of an answer is due, right after a question mark",
        ),
        ("- Where is Mary? -", "'-' stands where a word of an answer is due, right after a question mark"),
    ],
)
def test_what_is_no_word_is_told(text: str, mend: str) -> None:
    with pytest.raises(ValueError) as error:
        encode(text)
    assert str(error.value) == mend


def test_a_file_that_is_none_is_told_by_its_line() -> None:
    for text, mend in [
        ("Mary moved.\n", "qa1.txt, line 1: a line begins with its number in the story, of which the first is 1"),
        ("2 Mary moved.\n", "qa1.txt, line 1: a line begins with its number in the story, of which the first is 1"),
        ("1 Mary moved.\n2 Daniell moved.\n", "qa1.txt, line 2: 'daniell' is no word of bAbI; did you mean 'daniel'?"),
        ("1 Mary moved.\n", "qa1.txt has no question"),
        ("", "qa1.txt has no question"),
    ]:
        with pytest.raises(ValueError) as error:
            parse(text, 1, "qa1.txt")
        assert str(error.value) == mend


def test_every_story_comes_once_an_epoch_and_batches_are_of_one_band() -> None:
    lengths = [20] * 12 + [24] * 12 + [26] * 8 + [100] * 4 + [120] * 4
    task = stories_of(lengths)
    for _ in range(3):
        seen = Counter[int]()
        for _ in range(len(lengths) // 4):
            inputs, _, mask = task.draw(4)
            assert mask.sum(0).tolist() == [1] * 4
            seen.update(inputs[0].tolist())
            ends = (mask.argmax(0) + 1).tolist()
            assert max(ends) == len(inputs) and max(ends) < 1.25 * min(ends)
        assert seen == Counter(range(3, 3 + len(lengths)))


def test_what_makes_no_batch_waits_and_comes_as_often() -> None:
    task = stories_of([20] * 7 + [50] * 3 + [90])
    seen = Counter[int]()
    for draws in range(1, 200):
        seen.update(task.draw(4).inputs[0].tolist())
        if draws % 50 == 0:
            # A band waits for as many as a batch lacks: the single story of the third for three epochs.
            assert max(seen.values()) - min(seen.values()) <= 4
    assert len(seen) == 11


def test_tasks_join_one_after_another_by_the_curriculum() -> None:
    # Task 3 has no story that is short enough, and is passed over.
    lengths, numbers = [20] * 6 + [90] * 4 + [20] * 6 + [20] * 6, [5] * 6 + [3] * 4 + [1] * 6 + [2] * 6
    task = stories_of(lengths, numbers, tasks=(5, 3, 1, 2), curriculum=5, longest_story=80)
    by_word = dict(zip(range(3, 3 + len(lengths)), numbers, strict=True))
    seen = [Counter(by_word[word] for word in task.draw(2).inputs[0].tolist()) for _ in range(30)]
    assert sum(seen[:5], Counter()) == {5: 10}
    assert set(sum(seen[5:10], Counter())) == {5, 1}
    # Two epochs of all three.
    assert sum(seen[10:28], Counter()) == {5: 12, 1: 12, 2: 12}


def test_a_saved_curriculum_goes_on() -> None:
    task, restored = (stories_of([20] * 8, [1] * 4 + [2] * 4, tasks=(1, 2), curriculum=7) for _ in range(2))
    for _ in range(4):
        task.draw(3)
    restored.load_state_dict(task.state_dict())
    for _ in range(12):
        np.testing.assert_array_equal(task.draw(3).inputs, restored.draw(3).inputs)


def test_a_saved_task_goes_on(data: Path) -> None:
    config = BabiConfig(tasks=ALL)
    task, restored = (envs.make_task(config, np.random.default_rng(seed)) for seed in (0, 1))
    for _ in range(3):
        task.draw(3)
    restored.load_state_dict(task.state_dict())
    for _ in range(9):
        for mine, its in zip(task.draw(3), restored.draw(3), strict=True):
            np.testing.assert_array_equal(mine, its)


def test_long_stories_are_left_out_in_training_alone(data: Path) -> None:
    config = BabiConfig(tasks=ALL, longest_story=12)
    task = make_babi(config, np.random.default_rng(0))
    assert {text for _ in range(5) for text, _ in told(*task.draw(2))} == {READ[1]}
    assert len(make_babi(config.model_copy(update={"split": "test"}), np.random.default_rng(0))) == 3
    with pytest.raises(ValueError, match="longest_story must be at least 11 for this task, got 10"):
        make_babi(BabiConfig(tasks=ALL, longest_story=10), np.random.default_rng(0))


def test_an_archive_is_read_as_what_it_unpacks_to(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_stories("10k", ALL, "train")
    for number, form in enumerate(("xz", "gz")):
        folder = tmp_path / form / "babi"
        folder.mkdir(parents=True)
        with tarfile.open(folder / f"tasks.tar.{form}", f"w:{form}") as archive:
            archive.add(data / "babi" / "tasks_1-20_v1-2", f"top{number}")
        monkeypatch.setenv(DATA_VARIABLE, str(folder.parent))
        for mine, its in zip(load_stories("10k", ALL, "train"), expected, strict=True):
            np.testing.assert_array_equal(mine, its)


def test_a_task_of_which_only_the_1k_file_is_there_trains_on_that_and_says_so_once(data: Path) -> None:
    below = data / "babi" / "tasks_1-20_v1-2"
    (below / "en-10k" / "qa1_single-supporting-fact_train.txt").unlink()
    write_1k = below / "en"
    write_1k.mkdir()
    (write_1k / "qa1_single-supporting-fact_train.txt").write_text(TRAIN[1])
    with pytest.warns(UserWarning, match=r"en-10k/qa1_\*_train.txt is not in .*; task 1 trains on its 1k file instead"):
        task = make_babi(BabiConfig(tasks=(1,)), np.random.default_rng(0))
    assert len(task) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_babi(BabiConfig(tasks=(1,)), np.random.default_rng(0))


def test_data_that_is_not_there_or_damaged_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(**options: object) -> str:
        with pytest.raises(ValueError) as error:
            envs.make_task(BabiConfig(**options), np.random.default_rng(0))  # type: ignore[arg-type]
        return str(error.value)

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    put = "put http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz into"
    assert complaint().startswith(f"no bAbI in {tmp_path / 'babi'}; {put} {tmp_path / 'babi'}, or what it unpacks to")
    write(tmp_path)
    assert complaint(tasks=(2,)).startswith(f"no en-10k/qa2_*_train.txt in {tmp_path / 'babi'}; {put}")
    assert complaint(tasks=(1,), size="1k").startswith("no en/qa1_*_train.txt in ")
    other = tmp_path / "other"
    (other / "babi").mkdir(parents=True)
    (other / "babi" / "tasks.tar.xz").write_bytes(b"\xfd7zXZ\0 cut short")
    monkeypatch.setenv(DATA_VARIABLE, str(other))
    assert complaint().startswith(f"{other / 'babi' / 'tasks.tar.xz'} cannot be read: ")


def test_without_a_folder_the_official_archive_is_downloaded_with_its_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(address: str, checksum: str, **_: object) -> str:
        asked.append((address, checksum))
        raise OSError("no network")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr("pooch.retrieve", no_network)
    with pytest.raises(ValueError, match=r"bAbI cannot be downloaded \(no network\); set \$REINSTATE_DATA to a folder"):
        envs.make_task(BabiConfig(), np.random.default_rng(0))
    ((address, checksum),) = asked
    assert address.endswith("/tasks_1-20_v1-2.tar.gz") and checksum.startswith("sha256:")


@pytest.mark.parametrize("tasks", [(), (0,), (21,), (3, 3)])
def test_tasks_that_are_none_are_refused(tasks: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="tasks must be different numbers from 1 to 20, got"):
        BabiConfig(tasks=tasks)


def test_titles() -> None:
    assert BabiConfig().title == "bAbI 10k" and BabiConfig(size="1k", tasks=(2,)).title == "bAbI 1k task 2"
    assert BabiConfig(tasks=(1, 2)).title == "bAbI 10k tasks 1 2"


ANIMALS = "wolves are afraid of mice. sheep are afraid of wolves. emily is a wolf. what is emily afraid of?"


def renamed_and_plain(text: str, due: str, task: int, draws: int) -> Iterator[tuple[Sequences, Sequences]]:
    """The same draws with and without exchange of names, of four copies of a story a batch."""
    stories = parse(f"1 {text}\t{due}\n" * 4, task, "a test")
    configs = [BabiConfig(tasks=(task,), renaming=renaming) for renaming in (True, False)]
    renamed, plain = (Babi(config, stories, np.random.default_rng(0)) for config in configs)
    return ((renamed.draw(4), plain.draw(4)) for _ in range(draws))


@pytest.mark.parametrize(
    ("text", "due", "task", "alike"),
    [
        (ANIMALS, "mouse", 15, ["emily gertrude jessica winona", "cat mouse wolf", "cats mice wolves"]),
        (
            "bill is either in the park or the school. is bill in the park?",
            "maybe",
            10,
            ["bill fred julie mary", "bedroom cinema kitchen office park school"],
        ),
        (
            "john moved to the office. after that he moved to the garden. sandra moved to the hallway. where is john?",
            "garden",
            11,
            ["daniel john", "mary sandra", "bathroom bedroom garden hallway kitchen office"],
        ),
        ("the triangle is above the pink rectangle. is the triangle below the pink rectangle?", "no", 17, []),
    ],
)
def test_renamed_stories_are_the_same_with_other_names(text: str, due: str, task: int, alike: list[str]) -> None:
    """Every word stands for one other of its kind all over a story, its answer too; all come about equally often."""
    groups = [set(group.split()) for group in alike]
    seen = Counter[tuple[str, str]]()
    for renamed, plain in renamed_and_plain(text, due, task, 60):
        np.testing.assert_array_equal(renamed.mask, plain.mask)
        for column in range(4):
            new, old = (
                [WORDS[word] for word in (*batch.inputs[:, column], *batch.targets[:, column])]
                for batch in (renamed, plain)
            )
            names = dict(zip(old, new, strict=True))
            assert [names[word] for word in old] == new and len(set(names.values())) == len(names)
            for word, name in names.items():
                assert name == word or any({word, name} <= group for group in groups)
            if task == 15:
                assert (names["wolves"], names["wolf"]) in {("wolves", "wolf"), ("mice", "mouse"), ("cats", "cat")}
            seen.update(names.items())
    for group in groups:
        for word in group & {word for word, _ in seen}:
            for name in group:
                assert 0.5 < seen[word, name] * len(group) / 240 < 1.6, f"{word} became {name}"


TWO_QUESTIONS = (
    "1 wolves are afraid of mice.\n2 emily is a wolf.\n3 sheep are afraid of wolves.\n4 gertrude is a sheep.\n"
    "5 what is emily afraid of?\tmouse\t2 1\n6 what is gertrude afraid of?\twolf\t4 3\n"
)
SAID = "wolves are afraid of mice. emily is a wolf. sheep are afraid of wolves. gertrude is a sheep. "


@pytest.mark.parametrize("thinking_steps", [0, 2])
def test_questions_of_task_15_may_ask_for_their_first_step_alone(thinking_steps: int) -> None:
    stories = parse(TWO_QUESTIONS * 4, 15, "a test")
    config = BabiConfig(tasks=(15,), first_hops=0.3, thinking_steps=thinking_steps)
    task = Babi(config, stories, np.random.default_rng(0))
    dashes = " -" * (1 + thinking_steps)
    seen = Counter[int]()
    for _ in range(100):
        sequences = task.draw(4)
        assert len(sequences.inputs) == len(task.take(np.array([0])).inputs)
        for text, due in told(*sequences):
            # Answers tell whether the whole was asked, or the first step.
            whole = [("mouse", "wolf"), ("wolf", "sheep")]
            steps = [place for place, answers in enumerate(whole) if due[place] == answers[1]]
            asked = [
                f"what is {name}{'' if place in steps else ' afraid of'}?{dashes}"
                for place, name in enumerate(("emily", "gertrude"))
            ]
            assert text == SAID + " ".join(asked)
            assert len(due) == 2 and all(due[place] in whole[place] for place in (0, 1))
            seen.update(steps)
    assert len(seen) == 2 and all(0.2 < count / 400 < 0.4 for count in seen.values())


@pytest.mark.parametrize(("split", "number"), [("test", 15), ("train", 16)])
def test_other_tasks_and_the_test_have_no_first_steps(split: str, number: int) -> None:
    stories = parse(TWO_QUESTIONS * 8, number, "a test")
    configs = [BabiConfig.model_validate({"tasks": (15, 16), "split": split, "first_hops": each}) for each in (0, 1)]
    plain, other = (Babi(config, stories, np.random.default_rng(0)) for config in configs)
    for one, two in zip(plain.draw(8), other.draw(8), strict=True):
        np.testing.assert_array_equal(one, two)


def test_first_steps_are_for_task_15() -> None:
    with pytest.raises(ValidationError, match="first_hops is for task 15, which is not among tasks 1 2"):
        BabiConfig(tasks=(1, 2), first_hops=0.5)
    lengths = {"lengths": [20, 40, 60], "numbers": [1, 15, 15], "tasks": (1, 15), "first_hops": 0.5}
    assert len(stories_of(**lengths, longest_story=40)) == 2
    with pytest.raises(ValueError, match=r"longest_story must be at least 40 where there are first_hops.* got 39"):
        stories_of(**lengths, longest_story=39)


@pytest.mark.skipif(not HAS_DATA, reason="needs the true data")
def test_first_steps_of_the_true_data_are_what_was_said() -> None:
    task = make_babi(BabiConfig(tasks=(15,), first_hops=1.0), np.random.default_rng(0))
    for text, due in told(*task.draw(500)):
        sentences, *questions = text.split(" what is ")
        assert len(questions) == 4
        for question, kind in zip(questions, due, strict=True):
            assert f"{question.split('?')[0]} is a {kind}." in sentences


def test_stories_keep_their_names_where_they_are_tested_on(data: Path) -> None:
    configs = [BabiConfig(tasks=(1,), split="test", renaming=renaming) for renaming in (False, True)]
    plain, renamed = (make_babi(config, np.random.default_rng(0)) for config in configs)
    for one, other in zip(plain.draw(8), renamed.draw(8), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not HAS_DATA, reason="the data are not at hand")
def test_what_is_renamed_is_alike_in_the_true_data() -> None:
    """Words that change places are as frequent as one another, and have the same neighbours, but for chance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for task, groups in ALIKE.items():
            words = load_stories("10k", (task,), "train").words
            kinds = np.arange(len(WORDS))
            for number, group in enumerate(groups):
                kinds[group] = -1 - number
            for word_forms in (group.T for group in groups):
                for words_alike in word_forms:
                    places = [np.flatnonzero(words == word) for word in words_alike]
                    counts = [len(each) for each in places]
                    assert max(counts) <= 1.1 * min(counts), task
                    for step in (-1, 1):
                        beside = [Counter(kinds[words[(each + step) % len(words)]].tolist()) for each in places]
                        for kind in set().union(*beside):
                            shares = [each[kind] / count for each, count in zip(beside, counts, strict=True)]
                            assert max(shares) - min(shares) < 0.07, task


@pytest.mark.skipif(not HAS_DATA, reason="the data are not at hand")
def test_the_true_data_are_as_published() -> None:
    """A thousand test questions a task, and 156 words, a full stop, a question mark and a placeholder (Graves 2016)."""
    words = set[int]()
    for size in SIZES:
        stories = load_stories(size, TASKS, "test")
        asked, due = Counter[int](), Counter[int]()
        for task, start, end in zip(stories.tasks.tolist(), stories.starts[:-1], stories.starts[1:], strict=True):
            asked[task] += int((stories.words[start:end] == WORDS.index("?")).sum())
            due[task] += int((stories.answers[start:end] > 0).sum())
        assert asked == dict.fromkeys(TASKS, 1_000)
        # Of several words, answers are due in tasks 8 and 19 only.
        assert due == {**asked, 8: 1_069, 19: 2_000}
        words |= set(stories.words.tolist()) | set(stories.answers.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train = load_stories("10k", TASKS, "train")
    words |= set(train.words.tolist()) | set(train.answers.tolist())
    assert words == set(range(159))
    asked = Counter()
    for task, start, end in zip(train.tasks.tolist(), train.starts[:-1], train.starts[1:], strict=True):
        asked[task] += int((train.words[start:end] == WORDS.index("?")).sum())
    assert set(asked.values()) <= {1_000, 10_000} and all(asked[task] == 10_000 for task in set(TASKS) - {3})
