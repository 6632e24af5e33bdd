"""Grid worlds against MiniGrid's own environments and wrappers, stepped one at a time."""

from __future__ import annotations

from typing import Any, Literal, cast

import gymnasium
import numpy as np
import pydantic
import pytest
import xxhash
from gymnasium.vector import AutoresetMode
from minigrid import wrappers
from minigrid.core.actions import Actions
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Box, Key

from envs import GridWorldConfig, make, screens
from envs.world import World

DOOR_KEY = "MiniGrid-DoorKey-5x5-v0"
OBSTACLES = "MiniGrid-Dynamic-Obstacles-Random-5x5-v0"
LEFT, RIGHT, FORWARD, PICKUP, DROP = range(5)

Observation = Literal["symbolic", "one_hot", "pixels"]
View = Literal["partial", "full"]


def random_actions(world: World, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, world.single_action_space.n, (steps, world.num_envs))


def reset_ended(world: World, ended: np.ndarray, seed: int) -> None:
    world.reset(seed=seed + np.arange(ended.sum()), options={"reset_mask": ended})


def planes(image: np.ndarray) -> np.ndarray:
    """A one-hot image `[21, height, width]` of a full view `[width, height, 3]`, cell by cell."""
    result = np.zeros((21, image.shape[1], image.shape[0]))
    for column, line in enumerate(image):
        for row, (item, colour, state) in enumerate(line):
            result[[item, 11 + colour, 17 + state], row, column] = 1
    return result


def wrapped(name: str, observation: Observation, view: View) -> tuple[gymnasium.Env, Any]:
    """MiniGrid's own environment and wrapper, and how its image is turned into channels first."""
    env = gymnasium.make(name)
    match observation, view:
        case "symbolic", "full":
            return wrappers.FullyObsWrapper(env), lambda image: image.transpose(2, 1, 0)
        case "symbolic", "partial":
            return env, lambda image: image.transpose(2, 1, 0)
        case "one_hot", "full":
            return wrappers.FullyObsWrapper(env), planes
        case "one_hot", "partial":
            # MiniGrid has three states, one plane short of the four directions; nothing is ever in the fourth.
            one_hot = wrappers.OneHotPartialObsWrapper(env)
            return one_hot, lambda image: np.pad(image.transpose(2, 1, 0), ((0, 1), (0, 0), (0, 0)))
        case "pixels", "full":
            return wrappers.RGBImgObsWrapper(env, tile_size=6), lambda image: image.transpose(2, 0, 1)
    return wrappers.RGBImgPartialObsWrapper(env, tile_size=6), lambda image: image.transpose(2, 0, 1)


@pytest.mark.parametrize("name", [DOOR_KEY, "MiniGrid-KeyCorridorS3R1-v0"])
@pytest.mark.parametrize("observation", ["symbolic", "one_hot", "pixels"])
@pytest.mark.parametrize("view", ["partial", "full"])
def test_it_is_minigrids_environment_and_minigrids_view(name: str, observation: Observation, view: View) -> None:
    world = make(GridWorldConfig(id=name, observation=observation, view=view, tile_size=6), 1)
    env, channels_first = wrapped(name, observation, view)
    observations, _ = world.reset(seed=[8])
    image = env.reset(seed=8)[0]["image"]
    for action in random_actions(world, 150)[:, 0]:
        assert world.observation_space.contains(observations)
        assert np.array_equal(observations[0], channels_first(image))
        observations, rewards, terminations, truncations, _ = world.step(np.array([action]))
        seen, reward, terminated, truncated, _ = env.step(action)
        image = seen["image"]
        assert rewards.dtype == np.float64 and (rewards[0], terminations[0], truncations[0]) == (
            reward,
            terminated,
            truncated,
        )
    assert world.single_observation_space.high.max() == {"symbolic": 10, "one_hot": 1, "pixels": 255}[observation]


@pytest.mark.parametrize("name", [DOOR_KEY, OBSTACLES, "BabyAI-PutNextLocal-v0"])
def test_an_episode_depends_on_its_seed_and_actions_alone(name: str) -> None:
    alone, among = (make(GridWorldConfig(id=name, layouts=5), num_envs) for num_envs in (1, 3))
    actions = random_actions(among, 60)
    among.reset(seed=[1, 2, 3])
    for action in actions[:20]:
        _, _, terminations, truncations, _ = among.step(action)
        reset_ended(among, terminations | truncations, 50)
    there = among.reset(seed=[77], options={"reset_mask": np.array([False, True, False])})
    here = alone.reset(seed=77)
    for action in actions[20:]:
        assert np.array_equal(here[0][0], there[0][1]) and here[1]["state_hash"][0] == there[1]["state_hash"][1]
        *step_here, infos_here = alone.step(action[1:2])
        *step_there, infos_there = among.step(action)
        assert all(one[0] == other[1] for one, other in zip(step_here[1:], step_there[1:], strict=True))
        here, there = (step_here[0], infos_here), (step_there[0], infos_there)
        ended = step_there[2] | step_there[3]
        if ended[1]:
            break
        reset_ended(among, ended, 60)


def test_a_masked_reset_leaves_the_others_alone() -> None:
    world = make(GridWorldConfig(id=DOOR_KEY, view="full"), 3)
    world.reset(seed=[1, 2, 3])
    for action in random_actions(world, 10):
        observations, _, _, _, infos = world.step(action)
    kept = observations.copy()
    mask = np.array([True, False, False])
    begun, begun_infos = world.reset(seed=[4], options={"reset_mask": mask})
    assert np.array_equal(begun[1:], kept[1:]) and not np.array_equal(begun[0], kept[0])
    assert (begun_infos["state_hash"] == infos["state_hash"]).tolist() == [False, True, True]
    kept_begun = begun.copy()
    world.step(np.full(3, LEFT))
    assert np.array_equal(observations, kept) and np.array_equal(begun, kept_begun), "what was handed out stays"


def test_equal_state_hashes_are_equal_states() -> None:
    world = make(GridWorldConfig(id=DOOR_KEY, layouts=2), 1)
    env: Any = gymnasium.make(DOOR_KEY).unwrapped
    hashes: dict[tuple[str, bool], int] = {}
    for episode in range(8):
        infos = world.reset(seed=[episode])[1]
        env.reset(seed=episode % 2)
        for action in random_actions(world, 150, seed=episode)[:, 0]:
            state = env.hash(), env.carrying is not None
            assert hashes.setdefault(state, int(infos["state_hash"][0])) == infos["state_hash"][0]
            infos = world.step(np.array([action]))[4]
            env.step(action)
    assert infos["state_hash"].dtype == np.uint64
    assert len(set(hashes.values())) == len(hashes) > 50
    assert {carrying for _, carrying in hashes} == {True, False}


def test_the_state_hash_knows_what_minigrids_does_not() -> None:
    world = make(GridWorldConfig(id="MiniGrid-Empty-8x8-v0"), 1)
    world.reset(seed=[0])
    (env,) = cast(Any, world)._envs
    box: Any = Box("red")
    env.grid.set(3, 3, box)
    own, hashes = [], []
    for change in ("none", "carries a blue key", "carries a red key", "hides a key", "mission"):
        env.carrying = Key(change.split()[-2]) if change.startswith("carries") else None
        box.contains = Key("red") if change == "hides a key" else None
        env.mission = "another" if change == "mission" else "one"
        own.append(env.hash())
        keep_others = {"reset_mask": np.array([False])}
        hashes.append(int(world.reset(seed=[], options=keep_others)[1]["state_hash"][0]))
    assert len(set(own)) == 1 and len(set(hashes)) == 5


def test_the_state_hash_tells_apart_what_looks_alike() -> None:
    by_state, by_sight = (
        make(GridWorldConfig(id="MiniGrid-Empty-16x16-v0", state_hash=state_hash), 1)
        for state_hash in ("state", "observation")
    )
    by_state.reset(seed=[0])
    by_sight.reset(seed=[0])
    states, sights, looks = set(), set(), set()
    for action in [FORWARD] * 4 + [RIGHT] * 3:
        states.add(int(by_state.step(np.array([action]))[4]["state_hash"][0]))
        observations, _, _, _, infos = by_sight.step(np.array([action]))
        sights.add(int(infos["state_hash"][0]))
        looks.add(observations[0].tobytes())
    assert len(states) == 7 and len(sights) == len(looks) < 7
    assert sights == {xxhash.xxh3_64_intdigest(look) for look in looks}


@pytest.mark.parametrize(("layouts", "distinct"), [(1, 1), (3, 3), (0, 40)])
def test_episodes_are_drawn_from_so_many_layouts(layouts: int, distinct: int) -> None:
    world = make(GridWorldConfig(id="MiniGrid-FourRooms-v0", view="full", layouts=layouts), 40)
    _, infos = world.reset(seed=7)
    assert len(set(infos["state_hash"].tolist())) == distinct


def test_one_layout_does_not_repeat_its_random_events() -> None:
    world = make(GridWorldConfig(id=OBSTACLES, view="full", layouts=1), 20)
    _, infos = world.reset(seed=7)
    assert len(set(infos["state_hash"].tolist())) == 1
    infos = world.step(np.zeros(20, dtype=int))[4]
    assert len(set(infos["state_hash"].tolist())) > 1


@pytest.mark.parametrize("name", ["MiniGrid-LavaGapS5-v0", DOOR_KEY])
def test_tiles_lie_where_nothing_is_and_change_nothing(name: str) -> None:
    plain, tiled = (make(GridWorldConfig(id=name, view="full", tiles=tiles), 4) for tiles in (False, True))
    (before, _), (after, _) = (world.reset(seed=[1, 2, 3, 4]) for world in (plain, tiled))
    actions_of_all = random_actions(plain, 60)
    # What is put down needs bare ground.
    actions_of_all[actions_of_all == Actions.drop] = Actions.done
    for actions in actions_of_all:
        empty = before[:, 0] == OBJECT_TO_IDX["empty"]
        # Where a key was picked up, the ground is bare.
        assert np.isin(after[:, 0][empty], [OBJECT_TO_IDX["floor"], OBJECT_TO_IDX["empty"]]).all()
        assert np.array_equal(after.transpose(0, 2, 3, 1)[~empty], before.transpose(0, 2, 3, 1)[~empty])
        if name != DOOR_KEY:
            assert not (after[:, 0] == OBJECT_TO_IDX["empty"]).any()
        before, *there, _ = plain.step(actions)
        after, *here, _ = tiled.step(actions)
        assert all(np.array_equal(one, other) for one, other in zip(there, here, strict=True))
        ended = here[1] | here[2]
        if ended.any():
            seeds = list(range(50, 50 + ended.sum()))
            (before, _), (after, _) = (
                world.reset(seed=seeds, options={"reset_mask": ended}) for world in (plain, tiled)
            )


def test_every_episode_has_tiles_of_its_own() -> None:
    world = make(GridWorldConfig(id="MiniGrid-Empty-8x8-v0", view="full", layouts=1, tiles=True, actions=3), 3)
    first, _ = world.reset(seed=[5, 6, 5])
    colours = first[:, 1][first[:, 0] == OBJECT_TO_IDX["floor"]].reshape(3, -1)
    assert np.array_equal(colours[0], colours[2])
    # 36 cells but for the agent's and the goal; of six colours, a sixth are alike by chance.
    assert colours.shape == (3, 34) and len(set(colours.ravel().tolist())) == 6
    assert (colours[0] == colours[1]).sum() <= 16
    turned = world.step(np.zeros(3, dtype=int))[0]
    assert np.array_equal(turned[:, :2], first[:, :2])


@pytest.mark.parametrize("name", [DOOR_KEY, "BabyAI-GoToLocal-v0"])
def test_an_episode_ends_at_max_steps_and_waits_for_its_reset(name: str) -> None:
    world = make(GridWorldConfig(id=name, max_steps=5), 2)
    with pytest.raises(RuntimeError, match=r"environments \[0, 1\]"):
        world.step(np.full(2, DROP))
    world.reset(seed=[1, 2])
    world.step(np.full(2, DROP))
    world.reset(seed=[3], options={"reset_mask": np.array([True, False])})
    for step in range(4):
        _, _, terminations, truncations, _ = world.step(np.full(2, DROP))
        assert not terminations.any() and truncations.tolist() == [False, step == 3]
    with pytest.raises(RuntimeError, match=r"environments \[1\]"):
        world.step(np.full(2, DROP))
    world.reset(seed=[4], options={"reset_mask": truncations})
    world.step(np.full(2, DROP))


def test_success_is_a_termination_even_at_the_last_step() -> None:
    way = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
    world = make(GridWorldConfig(id="MiniGrid-Empty-5x5-v0", max_steps=len(way)), 1)
    world.reset(seed=[0])
    for action in way:
        _, rewards, terminations, truncations, _ = world.step(np.array([action]))
    assert terminations[0] and not truncations[0] and rewards[0] == pytest.approx(1 - 0.9)


def test_screens_show_the_same_episode() -> None:
    config = GridWorldConfig(id=OBSTACLES, observation="symbolic", state_hash="observation")
    env = gymnasium.make(OBSTACLES, render_mode="rgb_array")
    video = screens(config)
    env.reset(seed=5)
    picture = video.reset(5)
    for action in (LEFT, RIGHT, LEFT):
        rendered = env.render()
        assert isinstance(rendered, np.ndarray) and rendered.shape == (160, 160, 3)
        assert picture.dtype == np.uint8 and np.array_equal(picture, rendered)
        picture = video.step(action)
        env.step(action)


def test_what_a_world_says_of_itself() -> None:
    world = make(GridWorldConfig(id=OBSTACLES), 2)
    assert world.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert (world.frame_stack, world.frames_per_step, world.single_action_space.n) == (1, 1, 3)
    assert world.action_names == ("left", "right", "forward")
    world.reset(seed=0)
    with pytest.raises(ValueError, match="actions are 0 to 2"):
        world.step(np.array([0, 3]))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("MiniGrid-DoorKey-5x5", DOOR_KEY), ("minigrid-empty-8x8-v0", "MiniGrid-Empty-8x8-v0"), ("zzz", "BabyAI-")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        GridWorldConfig(id=wrong)
    message = caught.value.errors()[0]["msg"]
    assert repr(wrong) in message and right in message and "\n" not in message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"view_size": 4}, "odd, such as 3 or 5, not 4"),
        ({"view_size": 1}, "greater than or equal to 3"),
        ({"view_size": 3, "view": "full"}, "view_size is of the partial view"),
        ({"actions": 1}, "greater than or equal to 2"),
    ],
)
def test_bad_options_are_refused_in_a_line(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        GridWorldConfig.model_validate(options)
    (error,) = caught.value.errors()
    assert complaint in error["msg"] and "\n" not in error["msg"]


def test_more_actions_than_there_are_cannot_be_offered() -> None:
    with pytest.raises(ValueError, match=f"^{OBSTACLES} has 3 actions: actions cannot be 4$"):
        make(GridWorldConfig(id=OBSTACLES, actions=4), 1)
