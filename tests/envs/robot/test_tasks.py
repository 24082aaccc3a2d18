"""When a task is done, and what it is worth on the way."""

import math

import numpy as np
import pytest

from worldline.envs.robot.language import decode_language
from worldline.envs.robot.tasks import BLOCK, COLORS, CUBE, HOLD_STEPS

from .simulation import HOLD, make_task, put_tool


@pytest.mark.parametrize(("distance", "is_done"), [(0.015, True), (0.025, False)])
def test_reach_is_done_within_two_centimetres(distance, is_done):
    env, task, arm = make_task("reach")
    env._data.mocap_pos[0] = arm.tool_pos + np.array([0.0, distance, 0.0])
    reward, done = task.assess()
    assert done is is_done
    assert reward == pytest.approx(-math.tanh(5 * distance))


def test_success_is_held_before_it_ends_the_episode():
    env, _, arm = make_task("reach")
    for _ in range(5):
        env.step(HOLD)
    target = env._data.mocap_pos[0]
    target[:] = arm.tool_pos
    steps = [env.step(HOLD) for _ in range(HOLD_STEPS - 1)]
    target[:] += 1.0  # lost just before the end
    steps.append(env.step(HOLD))
    target[:] = arm.tool_pos
    steps += [env.step(HOLD) for _ in range(HOLD_STEPS)]
    assert [step[2] for step in steps] == [False] * (2 * HOLD_STEPS - 1) + [True]
    assert [step[4]["success"] for step in steps] == [step[2] for step in steps]


def test_targets_are_in_the_workspace_and_not_at_the_tool():
    env, _, arm = make_task("reach")
    for seed in range(100):
        env.reset(seed=seed)
        target = env._data.mocap_pos[0]
        assert (target >= [0.3, -0.25, 0.05]).all()
        assert (target <= [0.6, 0.25, 0.35]).all()
        assert np.linalg.norm(target - arm.tool_pos) >= 0.1


def on_block(task):
    return task._target.copy()


def test_pick_place_is_done_when_the_cube_lies_on_the_block_let_go_of():
    env, task, arm = make_task("pick_place")
    task._cube_pos[:] = on_block(task)
    for _ in range(5):
        arm.move(HOLD)
    assert task.assess() == (0.0, True)
    env._data.qpos[7:9] = 0.018  # fingers closed: held, wherever they are
    assert task.assess()[1] is False
    env._data.qpos[7:9] = 0.04
    task._cube_pos[:2] += [0.04, 0.0]  # off its middle
    assert task.assess()[1] is False
    task._cube_pos[:] = [*on_block(task)[:2], CUBE + 0.2]  # in the air above it
    assert task.assess()[1] is False


def test_the_cube_cannot_be_pushed_onto_the_block():
    env, task, arm = make_task("pick_place")
    env._data.mocap_pos[0] = [0.45, 0.2, BLOCK[2]]
    task._cube_pos[:] = [0.45, 0.05, CUBE]
    put_tool(env, [0.45, -0.05, 0.1])
    put_tool(env, [0.45, -0.05, 0.02])
    for _ in range(20):
        arm.move(np.array([0.0, 1.0, 0.0, 1.0]))
    assert task._cube_pos[1] > 0.1  # it was pushed
    assert task._cube_pos[2] < CUBE + BLOCK[2]  # and stays down


def test_rewards_rise_with_progress():
    env, task, arm = make_task("pick_place")
    cube = task._cube_pos
    far = task.assess()[0]
    put_tool(env, cube + np.array([0.0, 0.0, 0.05]))
    near = task.assess()[0]
    cube[:] = arm.tool_pos
    env._data.qpos[7:9] = 0.02
    held = task.assess()[0]
    cube[:] = on_block(task)
    arm.tool_pos[:] = cube
    there = task.assess()[0]
    assert -1 <= far < near < held < there < 0


def test_cube_and_block_lie_apart():
    env, task, _ = make_task("pick_place")
    for seed in range(100):
        env.reset(seed=seed)
        assert math.dist(task._cube_pos[:2], task._target[:2]) >= 0.14
        assert task._target[2] == 2 * BLOCK[2] + CUBE


def test_language_names_one_ball_that_alone_counts():
    env, task, arm = make_task("language_reach")
    seen = set()
    for seed in range(60):
        obs, info = env.reset(seed=seed)
        text = decode_language(obs["language"])
        assert text == info["language"]
        (color,) = (name for name in COLORS if name in text.split())
        seen.add((color, text.replace(color, "")))
        for name in COLORS:
            arm.tool_pos[:] = obs[f"{name}_pos"]
            assert task.assess()[1] is (name == color)
    assert len({color for color, _ in seen}) == 4
    assert len({words for _, words in seen}) == 4


def test_balls_lie_apart():
    env, _, _ = make_task("language_reach")
    for seed in range(50):
        env.reset(seed=seed)
        places = env._data.mocap_pos
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(4, dtype=bool)]
        assert apart.min() > 0.12


def test_visiting_balls_in_turn_is_no_way_around_the_instruction():
    env, task, arm = make_task("language_reach")
    for _ in range(10):
        env.step(HOLD)
    wrong = (task._chosen + 1) % 4
    env._data.mocap_pos[wrong] = arm.tool_pos
    steps = [env.step(HOLD) for _ in range(HOLD_STEPS)]
    assert [step[2:4] for step in steps] == [(False, False)] * (HOLD_STEPS - 1) + [(True, False)]
    assert not steps[-1][4]["success"]
    num_left = 100 - 10 - HOLD_STEPS
    assert steps[-1][1] == pytest.approx(steps[-2][1] - num_left, abs=0.01)
