"""Every setting changes what it names, within its range, and nothing for good."""

import dataclasses

import numpy as np
import pytest

from worldline.envs.make import make_env
from worldline.envs.robot.env import RobotEnv
from worldline.envs.robot.randomization import Randomization
from worldline.envs.robot.tasks import TASKS
from worldline.errors import ConfigError

NOTHING = {
    field.name: (1.0, 1.0) if isinstance(field.default, tuple) else 0.0 for field in dataclasses.fields(Randomization)
}
# Setting -> the fields of the model that it changes.
CHANGES = {
    "mass": {"body_mass", "body_inertia"},
    "friction": {"geom_friction"},
    "damping": {"dof_damping"},
    "servo_gain": {"actuator_gainprm", "actuator_biasprm"},
    "light": {"light_diffuse"},
    "lamp": {"light_pos"},
    "color": {"geom_rgba"},
    "camera": {"cam_pos"},
}
FIELDS = sorted(set().union(*CHANGES.values()))


def fields_of(env):
    return {name: getattr(env._model, name).copy() for name in FIELDS}


def test_every_setting_is_tested():
    assert CHANGES.keys() == NOTHING.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_it_names_and_nothing_else(name):
    usual = fields_of(RobotEnv(TASKS["pick_place"]))
    setting = (2.0, 3.0) if isinstance(NOTHING[name], tuple) else 0.05
    env = RobotEnv(TASKS["pick_place"], randomization=Randomization(**{**NOTHING, name: setting}))
    for seed in range(3):
        env.reset(seed=seed)
        after = fields_of(env)
        assert {field for field in FIELDS if not np.array_equal(usual[field], after[field])} == CHANGES[name]
        for field in CHANGES[name]:
            changed = usual[field] != after[field]
            if isinstance(setting, tuple):
                ratio = after[field][changed] / usual[field][changed]
                assert (ratio >= 2.0).all()
                assert (ratio <= 3.0).all()
            else:
                assert (np.abs(after[field] - usual[field]) <= 0.05 + 1e-6).all()


def test_masses_of_objects_change_and_those_of_the_arm_do_not():
    env = RobotEnv(TASKS["pick_place"], randomization=Randomization(mass=(2.0, 2.0)))
    usual = env._model.body_mass.copy()
    env.reset(seed=0)
    changed = np.flatnonzero(env._model.body_mass != usual)
    assert [env._model.body(body).name for body in changed] == ["cube"]
    assert env._model.body_subtreemass[changed[0]] == pytest.approx(0.12)


def test_settings_may_be_a_mapping_and_are_checked():
    env = make_env("robot:reach", randomization={"light": [0.5, 0.5]})
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="Did you mean 'light'"):
        make_env("robot:reach", randomization={"lights": [0.5, 0.5]})
    for wrong in ({"mass": (2.0, 1.0)}, {"mass": (0.0, 1.0)}, {"color": -0.1}, {"camera": float("inf")}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Randomization(**wrong)
