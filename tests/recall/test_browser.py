"""The page in a real browser before a real TensorBoard: what a hand does, and what an eye sees."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium")

from benchmarks.browser import CHROMIUM, DRIVER, Page, chromium, tensorboard, until
from recall.record import episodes_folder
from tests.recall.records import write_episode, write_run

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
WHOLE, OTHER, RUNNING, DAMAGED, EMPTY = "a-whole", "b-other", "c-running", "d-damaged", "e-empty"
FIRST, SECOND = "training-000000110", "training-000000200"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_run(folder / WHOLE, 110, 200)
    write_run(folder / OTHER, 150, length=20)
    write_run(folder / RUNNING)
    write_episode(folder / RUNNING / "recalls", 120, 12, ends=None, fresh=True)
    write_run(folder / DAMAGED, 110, 200)
    damaged = episodes_folder(folder / DAMAGED / "recalls")
    (damaged / FIRST / "episode.json").write_text("<script>document.title = 'broken in'</script>")
    path = damaged / SECOND / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"time":4,', b'"tim', 1))
    episodes_folder(folder / EMPTY / "recalls").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def page(logs: Path):
    with tensorboard(logs) as address, chromium() as driver:
        page = Page(driver, address)
        yield page
        severe = [line for line in page.complaints() if "favicon" not in line and "404" not in line]
        assert severe == []


def step_shown(page: Page) -> int:
    return int(page.text(".clock").split()[1])


def test_the_newest_episode_of_a_run_opens_with_its_world_and_its_memories(page):
    page.open(run=WHOLE)
    until(lambda: page.corner(".world") == 200)
    assert step_shown(page) == 0 and page.link()["episode"] == SECOND
    assert "episode 2, from step 200" in page.run(
        "document.querySelector('[aria-label=episode]').selectedOptions[0].text"
    )
    # Step 200 took action 2, "down": two memories of it are listed, the heavier first.
    until(lambda: page.texts(".card .weight") == ["50 %", "25 %"])
    assert all(text.startswith("down · episode") for text in page.texts(".card .of"))
    assert page.texts(".value .name") == ["noop", "up", "down"] and page.text(".value.took .name") == "down"


def test_a_picture_is_of_the_memory_it_stands_by(page):
    page.open(run=WHOLE, episode=FIRST, step=3, action="all")
    origins = until(
        lambda: page.run("[...document.querySelectorAll('.card')].map(card => Number(card.dataset.origin))")
    )
    assert len(origins) == 6
    for place, origin in enumerate(origins, start=1):
        until(lambda place=place, origin=origin: page.corner(f".card:nth-child({place}) canvas") == origin)


def test_keys_and_the_slider_move_through_time(page):
    page.open(run=WHOLE, episode=FIRST)
    for key, shift, expected in [
        *(("ArrowRight", False, 1), ("ArrowRight", False, 2), ("ArrowLeft", False, 1), ("ArrowLeft", False, 0)),
        *(("ArrowLeft", False, 0), ("ArrowRight", True, 10), ("End", False, 29), ("ArrowRight", False, 29)),
        *(("ArrowLeft", True, 19), ("Home", False, 0)),
    ]:
        page.press(key, shift)
        assert step_shown(page) == expected
        until(lambda expected=expected: page.corner(".world") == 110 + expected)
    page.choose("[aria-label=step]", "17", "input")
    assert step_shown(page) == 17 and page.link()["step"] == "17"
    page.press("ArrowDown")
    until(lambda: page.link()["episode"] == SECOND)
    page.press("ArrowUp")
    until(lambda: page.link()["episode"] == FIRST)


def test_it_plays_to_the_end_and_stops(page):
    page.open(run=WHOLE, episode=FIRST, step=20)
    page.choose("[aria-label='steps a second']", "30")
    page.press(" ")
    until(lambda: step_shown(page) == 29)
    until(lambda: page.texts(".controls button")[2] == "▶")


def test_memories_are_filtered_by_action_weight_and_age(page):
    page.open(run=WHOLE, episode=FIRST, step=3)
    until(lambda: len(page.texts(".card")) == 2)
    page.press("0")
    until(lambda: len(page.texts(".card")) == 6)
    page.press("2")
    until(lambda: {text.split(" ·")[0] for text in page.texts(".card .of")} == {"up"})
    page.press("0")
    page.choose("[aria-label='least weight']", "0.4", "input")
    until(lambda: page.texts(".card .weight") == ["50 %"] * 3)
    ages = page.run("[...document.querySelectorAll('.card')].map(card => 113 - Number(card.dataset.origin))")
    page.choose("[aria-label='greatest age']", str(min(ages)), "input")
    until(lambda: len(page.texts(".card")) == ages.count(min(ages)))
    page.choose("[aria-label='greatest age']", "0", "input")
    until(lambda: page.text(".cards") == "No memory passes the filter.")
    page.click(".value:nth-child(3)")
    assert page.link()["action"] == "down"


def test_a_step_that_nobody_looked_at_says_so(page):
    page.open(run=WHOLE, episode=FIRST, step=9)
    until(lambda: "Nobody looked at this step" in page.text(".values"))
    assert page.texts(".card") == []


def test_a_memory_tells_when_it_was_written_and_where_else_it_was_recalled(page, logs):
    page.open(run=WHOLE, episode=FIRST, step=3)
    until(lambda: len(page.texts(".card")) == 2)
    origin = page.run("Number(document.querySelector('.card').dataset.origin)")
    page.click(".card")
    until(lambda: f"Memory of agent step {origin}" in page.text(".detail h3"))
    assert f"its key of step {origin}" in page.text(".detail .note")
    until(lambda: page.corner(".moments .self canvas") == origin)
    before = page.run("[...document.querySelectorAll('.moments figure')].findIndex(one => one.className === 'self')")
    if before:
        until(lambda: page.corner(f".moments figure:nth-child({before}) canvas") == origin - 1)
    until(lambda: any("episode 1" in text for text in page.texts(".detail li")))
    assert page.link()["memory"] == str(origin)
    times = page.texts(".detail .time")
    stretches = [[int(time) for time in text.split("\N{EN DASH}")] for text in times]
    assert any(first <= 3 <= last for first, *_, last in [stretch * 2 for stretch in stretches])
    page.run("[...document.querySelectorAll('.detail .time')].at(-1).click()")
    until(lambda: step_shown(page) == stretches[-1][0])
    until(
        lambda: page.run(
            "document.querySelector('.card.opened') !== null || document.querySelector('.detail').hidden === false"
        )
    )
    page.press("Escape")
    until(lambda: page.run("document.querySelector('.detail').hidden"))


def test_two_runs_are_compared_at_the_same_step(page):
    page.open(run=WHOLE, episode=FIRST, step=5)
    page.choose("[aria-label='compare with']", OTHER)
    until(lambda: page.corner("[data-pane='1'] .world") == 155)
    page.press("ArrowRight")
    until(lambda: page.corner("[data-pane='0'] .world") == 116 and page.corner("[data-pane='1'] .world") == 156)
    # The other episode has twenty steps, this one thirty.
    page.press("End")
    until(lambda: "ended at step 19" in page.text("[data-pane='1'] .facts"))
    assert page.link()["run2"] == OTHER
    page.choose("[aria-label='compare with']", "")
    until(lambda: page.run("document.querySelectorAll('.pane').length") == 1)


def test_a_link_opens_the_same_view_again(page):
    page.open(run=WHOLE, episode=FIRST, step=3, action="all")
    until(lambda: len(page.texts(".card")) == 6)
    page.choose("[aria-label='least weight']", "0.4", "input")
    page.choose("[aria-label='compare with']", OTHER)
    until(lambda: "run2" in page.link())
    page.click("[data-pane='0'] .card")
    until(lambda: "memory" in page.link())
    view, cards = page.link(), page.texts(".card .of")
    page.open(**view)
    until(lambda: page.texts(".card .of") == cards)
    until(lambda: page.link() == view)
    until(lambda: f"Memory of agent step {int(view['memory']):,}" in page.text("[data-pane='0'] .detail h3"))


def test_a_link_to_what_is_not_there_says_so(page):
    page.open(run="gone", episode=FIRST)
    until(lambda: "There is no run gone here." in page.text(".notice"))
    page.open(run=WHOLE, episode="training-000000999")
    until(lambda: "There is no episode training-000000999" in page.text(".notice"))


@pytest.mark.parametrize("step", ["-5", "abc", "1.5", "1e30"])
def test_a_step_that_is_no_number_is_the_first(page, step):
    page.open(run=WHOLE, episode=FIRST, step=step, memory="x", weight="x", age="-1")
    until(lambda: page.corner(".world") == 110 and len(page.texts(".card")) == 2)
    assert step_shown(page) == 0 and page.link()["step"] == "0" and "memory" not in page.link()


def test_a_link_put_into_the_address_bar_is_followed(page):
    page.open(run=WHOLE, episode=FIRST, step=3)
    until(lambda: page.corner(".world") == 113)
    link = f"#recalls&p.recalls.run={OTHER}&p.recalls.step=7"
    page.run("window.parent.location.hash = arguments[0]", link)
    until(lambda: page.corner(".world") == 157 and step_shown(page) == 7)


def test_an_answer_that_comes_late_does_not_take_the_place_of_what_is_open(page):
    """The first of two episodes asked for answers after the second."""
    page.open(run=WHOLE, episode=FIRST)
    until(lambda: page.corner(".world") == 110)
    page.run(
        "window.fetch = (real => url => new Promise(done => setTimeout(() => done(real(url)),"
        " String(url).includes('000000200') ? 1500 : 0)))(window.fetch)"
    )
    page.press("ArrowDown")
    page.press("ArrowUp")
    until(lambda: page.link()["episode"] == FIRST)
    with pytest.raises(AssertionError):
        until(lambda: page.corner(".world") != 110 or page.link()["episode"] != FIRST, patience=3.0)


def test_an_empty_run_says_what_to_wait_for(page):
    page.open(run=EMPTY)
    until(lambda: "Nothing is recorded of this run yet" in page.text(".notice"))


def test_an_episode_that_is_being_written_is_followed(page, logs):
    page.open(run=RUNNING)
    until(lambda: "still being written" in page.text(".notice"))
    assert page.text(".clock") == "step 0 of 11"
    assert "if fresh" in page.text(".card")
    path = episodes_folder(logs / RUNNING / "recalls") / "training-000000120" / "steps.jsonl"
    line = path.read_text().splitlines()[-1]
    with path.open("a") as file:
        file.write(line.replace('"time":11', '"time":12') + "\n")
    until(lambda: page.text(".clock") == "step 0 of 12")


def test_what_is_damaged_is_named_and_the_rest_is_shown(page):
    page.open(run=DAMAGED, episode=SECOND)
    until(lambda: "1 of the lines of this episode cannot be read (line 5" in page.text(".notice"))
    until(lambda: page.corner(".world") == 200)
    assert page.text(".clock") == "step 0 of 29"
    for _ in range(4):
        page.press("ArrowRight")
    until(lambda: "This step cannot be read" in page.text(".facts"))
    page.press("ArrowRight")
    until(lambda: page.corner(".world") == 205)
    page.open(run=DAMAGED, episode=FIRST)
    until(lambda: "episode.json is damaged" in page.text(".notice"))
    assert page.run("window.parent.document.title") != "broken in"


def test_it_is_dark_where_tensorboard_is(page):
    page.open(run=WHOLE)
    ground = "getComputedStyle(document.body).backgroundColor"
    page.run("window.parent.document.body.classList.remove('dark-mode')")
    light = until(
        lambda: page.run(ground) if page.run("!document.documentElement.classList.contains('dark')") else None
    )
    page.run("window.parent.document.body.classList.add('dark-mode')")
    until(lambda: page.run("document.documentElement.classList.contains('dark')"))
    assert page.run(ground) != light
    page.run("window.parent.document.body.classList.remove('dark-mode')")
