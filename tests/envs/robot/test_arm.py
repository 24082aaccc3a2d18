"""The arm goes where it is told, points down, and stays there."""

import numpy as np
import pytest

from worldline.envs.robot.arm import PHYSICS_STEPS, REACHABLE, STEP

from .simulation import HOLD, make_task, put_tool

CORNERS = [(x, y, z) for x in (0.3, 0.6) for y in (-0.25, 0.25) for z in (0.03, 0.35)]


@pytest.mark.parametrize("place", CORNERS)
def test_every_corner_of_the_workspace_is_reached_pointing_down(place):
    env, _, arm = make_task("reach")
    put_tool(env, place)
    np.testing.assert_allclose(arm.tool_pos, place, atol=1e-3)
    np.testing.assert_allclose(arm._tool_axes, np.diag([-1.0, 1.0, -1.0]), atol=0.01)


def test_an_action_moves_the_tool_by_its_units():
    _, _, arm = make_task("reach")
    before = arm.tool_pos.copy()
    arm.move(np.array([1.0, -0.5, 0.25, -1.0]))
    for _ in range(10):
        arm.move(HOLD)
    np.testing.assert_allclose(arm.tool_pos - before, STEP * np.array([1.0, -0.5, 0.25]), atol=5e-4)


def test_it_does_not_sag_or_drift():
    _, _, arm = make_task("reach")
    for _ in range(20):
        arm.move(HOLD)
    before = arm.tool_pos.copy()
    for _ in range(200):
        arm.move(HOLD)
    np.testing.assert_allclose(arm.tool_pos, before, atol=1e-3)


def test_it_stays_within_reach_and_goes_no_further_than_its_leash():
    _, _, arm = make_task("reach")
    for _ in range(100):
        arm.move(np.array([1.0, 1.0, -1.0, -1.0]))
    np.testing.assert_allclose(arm.tool_pos, [REACHABLE[1, 0], REACHABLE[1, 1], REACHABLE[0, 2]], atol=0.01)
    arm.move(np.array([-1.0, 0.0, 0.0, -1.0]))
    arm.move(np.array([-1.0, 0.0, 0.0, -1.0]))
    assert arm.tool_pos[0] < REACHABLE[1, 0] - 0.02  # it turns round at once: nothing has piled up


def test_the_gripper_opens_and_closes():
    _, _, arm = make_task("reach")
    assert arm.opening == pytest.approx(1.0, abs=0.01)
    for _ in range(20):
        arm.move(np.array([0.0, 0.0, 0.0, 1.0]))
    assert arm.opening == pytest.approx(0.0, abs=0.02)
    for _ in range(20):
        arm.move(HOLD)
    assert arm.opening == pytest.approx(1.0, abs=0.02)


def test_there_are_twenty_actions_a_second():
    env, _, _ = make_task("reach")
    env.step(HOLD)
    assert env._data.time == pytest.approx(1 / 20)
    assert env._model.opt.timestep * PHYSICS_STEPS == pytest.approx(1 / env.metadata["render_fps"])
