"""What there is to do, when it is done, and what it is worth.

All rewards are in [-1, 0] per step and nearer to 0 the more is done, so that ending early is never worse: an episode is
terminated as soon as its goal has held for `HOLD_STEPS` steps, which is success, and truncated at `max_steps`.

| task           | done when                                                           | steps at most |
|----------------|---------------------------------------------------------------------|---------------|
| reach          | the tool is within 2 cm of the target                               | 100           |
| pick_place     | the cube lies on the block, within 3 cm of its middle, let go of    | 200           |
| language_reach | the tool is within 3 cm of the ball that the instruction names      | 100           |

Who visits all balls in turn has not understood: as long at a wrong one also terminates, without success, and costs as
much as the steps that are left would at most.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces

from worldline.envs.robot.arm import ARM_XML, MAX_OPENING, Arm
from worldline.envs.robot.language import LANGUAGE, LANGUAGE_BYTES, encode_language
from worldline.episode import Array

HOLD_STEPS = 5

CUBE = 0.02  # metres, half an edge
BLOCK = np.array([0.045, 0.045, 0.015])  # metres, half its edges
COLORS = {
    "red": (0.9, 0.08, 0.08, 1),
    "green": (0.05, 0.7, 0.1, 1),
    "blue": (0.1, 0.2, 0.95, 1),
    "yellow": (1.0, 0.85, 0.0, 1),
}
INSTRUCTIONS = ("reach the {} ball", "touch the {} ball", "go to the {} one", "move the gripper to the {} ball")


class Task(abc.ABC):
    """A task in one simulation. `[..]` are shapes; all positions are in metres, in the world's axes."""

    name: ClassVar[str]
    max_steps: ClassVar[int]

    def __init__(self, model: Any, data: Any, arm: Arm) -> None:
        self._model = model
        self._data = data
        self._arm = arm

    @staticmethod
    @abc.abstractmethod
    def add_to(spec: Any) -> None:
        """Add the task's things to the arm's `mujoco.MjSpec`."""

    @abc.abstractmethod
    def spaces(self) -> dict[str, spaces.Box]:
        """Return what is observed besides the arm."""

    @abc.abstractmethod
    def reset(self, generator: np.random.Generator) -> str:
        """Put things in their places and return the instruction."""

    @abc.abstractmethod
    def observe(self) -> dict[str, Array]:
        """Return what is observed besides the arm, in arrays of their own."""

    @abc.abstractmethod
    def assess(self) -> tuple[float, bool]:
        """Return the reward of the step that led here, and whether the task is done at this moment."""

    def is_wrong(self) -> bool:
        """Tell whether something is done at this moment that was not asked for."""
        return False


class Reach(Task):
    """Bring the tool to a red ball in the air."""

    name = "reach"
    max_steps = 100
    _low, _high = np.array([0.3, -0.25, 0.05]), np.array([0.6, 0.25, 0.35])
    _within = 0.02
    _min_distance = 0.1  # from where the tool begins

    @staticmethod
    def add_to(spec: Any) -> None:
        """Add the ball."""
        _add_marker(spec, "target", COLORS["red"], 0.02)

    def spaces(self) -> dict[str, spaces.Box]:
        """Return where the target is."""
        return {"target_pos": _numbers(3)}

    def reset(self, generator: np.random.Generator) -> str:
        """Put the ball somewhere."""
        target = self._data.mocap_pos[0]
        target[:] = generator.uniform(self._low, self._high)
        while _distance(target, self._arm.tool_pos) < self._min_distance:
            target[:] = generator.uniform(self._low, self._high)
        return "reach the red ball"

    def observe(self) -> dict[str, Array]:
        """Return where the target is."""
        return {"target_pos": self._data.mocap_pos[0].astype(np.float32)}

    def assess(self) -> tuple[float, bool]:
        """The reward is -tanh(5 d) at a distance of d metres."""
        distance = _distance(self._arm.tool_pos, self._data.mocap_pos[0])
        return -math.tanh(5 * distance), distance < self._within


class PickPlace(Task):
    """Pick up a red cube from the table and put it onto a green block, which it cannot be pushed onto."""

    name = "pick_place"
    max_steps = 200
    _low, _high = np.array([0.33, -0.22]), np.array([0.57, 0.22])
    _turn = 0.3  # radians, of the cube
    _min_distance = 0.14  # between cube and block
    _within = 0.03

    def __init__(self, model: Any, data: Any, arm: Arm) -> None:
        super().__init__(model, data, arm)
        address = model.joint("cube").qposadr[0]
        self._cube_pos: Array = data.qpos[address : address + 3]  # views
        self._cube_quat: Array = data.qpos[address + 3 : address + 7]
        self._target = np.zeros(3)  # of the cube's middle

    @staticmethod
    def add_to(spec: Any) -> None:
        """Add the cube and the block."""
        cube = spec.worldbody.add_body(name="cube", pos=(0.45, 0.0, CUBE))
        cube.add_freejoint(name="cube")
        cube.add_geom(
            name="cube",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(CUBE, CUBE, CUBE),
            mass=0.06,
            rgba=COLORS["red"],
            contype=1,
            conaffinity=3,
            condim=4,
            friction=(1.0, 0.02, 0.0005),
            solref=(0.01, 1.0),
        )
        block = spec.worldbody.add_body(name="block", mocap=True, pos=(0.45, 0.2, BLOCK[2]))
        block.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=BLOCK, rgba=(0.1, 0.6, 0.25, 1), contype=1, conaffinity=3)

    def spaces(self) -> dict[str, spaces.Box]:
        """Return how far the gripper is open, the cube's pose (its quaternion is w, x, y, z), and where it shall be."""
        return {
            "gripper": spaces.Box(-0.1, 1.1, (1,), np.float32),
            "object_pos": _numbers(3),
            "object_quat": spaces.Box(-1.0, 1.0, (4,), np.float32),
            "target_pos": _numbers(3),
        }

    def reset(self, generator: np.random.Generator) -> str:
        """Put the cube and the block somewhere, apart from each other."""
        cube, block = generator.uniform(self._low, self._high, size=(2, 2))
        while math.dist(cube, block) < self._min_distance:
            cube, block = generator.uniform(self._low, self._high, size=(2, 2))
        self._cube_pos[:] = *cube, CUBE
        half_turn = generator.uniform(-self._turn, self._turn) / 2
        self._cube_quat[:] = math.cos(half_turn), 0.0, 0.0, math.sin(half_turn)
        self._data.mocap_pos[0] = *block, BLOCK[2]
        self._target[:] = *block, 2 * BLOCK[2] + CUBE
        return "put the red cube onto the green block"

    def observe(self) -> dict[str, Array]:
        """Return what `spaces` says."""
        return {
            "gripper": np.array([self._arm.opening], dtype=np.float32),
            "object_pos": self._cube_pos.astype(np.float32),
            "object_quat": self._cube_quat.astype(np.float32),
            "target_pos": self._target.astype(np.float32),
        }

    def assess(self) -> tuple[float, bool]:
        """The reward counts, with weights that sum to 1: the tool at the cube, held, near the target, let go of."""
        cube, opening = self._cube_pos, self._arm.opening * MAX_OPENING
        away = _distance(self._arm.tool_pos, cube)
        left = _distance(cube, self._target)
        is_there = math.dist(cube[:2], self._target[:2]) < self._within and abs(cube[2] - self._target[2]) < 0.008
        is_free = opening > CUBE + 0.004
        is_held = away < 0.025 and not is_free
        if is_there and is_free:
            return 0.0, True
        progress = 0.2 * (1 - math.tanh(5 * away)) + 0.2 * is_held + 0.5 * (1 - math.tanh(5 * left)) + 0.05 * is_there
        return progress - 1.0, False


class LanguageReach(Task):
    """Bring the tool to the one of four balls on the table that the instruction names."""

    name = "language_reach"
    max_steps = 100
    _low, _high = np.array([0.32, -0.24]), np.array([0.58, 0.24])
    _height = 0.04
    _radius = 0.03
    _min_distance = 0.12
    _within = 0.03

    def __init__(self, model: Any, data: Any, arm: Arm) -> None:
        super().__init__(model, data, arm)
        self._instruction = encode_language("")
        self._chosen = 0

    @staticmethod
    def add_to(spec: Any) -> None:
        """Add the balls."""
        for color, rgba in COLORS.items():
            _add_marker(spec, color, rgba, LanguageReach._radius)

    def spaces(self) -> dict[str, spaces.Box]:
        """Return where each ball is, in the order of `COLORS`, and the instruction's bytes."""
        places = {f"{color}_pos": _numbers(3) for color in COLORS}
        return {**places, LANGUAGE: spaces.Box(0, 255, (LANGUAGE_BYTES,), np.uint8)}

    def reset(self, generator: np.random.Generator) -> str:
        """Put the balls somewhere and choose one, and the words that name it."""
        places = self._draw(generator)
        self._data.mocap_pos[:, :2] = places
        self._data.mocap_pos[:, 2] = self._height
        self._chosen = int(generator.integers(len(COLORS)))
        words = INSTRUCTIONS[int(generator.integers(len(INSTRUCTIONS)))]
        text = words.format(list(COLORS)[self._chosen])
        self._instruction = encode_language(text)
        return text

    def observe(self) -> dict[str, Array]:
        """Return what `spaces` says."""
        places = self._data.mocap_pos.astype(np.float32)
        named = {f"{color}_pos": place.copy() for color, place in zip(COLORS, places, strict=True)}
        return {**named, LANGUAGE: self._instruction.copy()}

    def assess(self) -> tuple[float, bool]:
        """The reward is -tanh(5 d) at a distance of d metres from the right ball."""
        distance = _distance(self._arm.tool_pos, self._data.mocap_pos[self._chosen])
        return -math.tanh(5 * distance), distance < self._within

    def is_wrong(self) -> bool:
        """Tell whether the tool is at another ball."""
        places = self._data.mocap_pos
        others = (number for number in range(len(places)) if number != self._chosen)
        return any(_distance(self._arm.tool_pos, places[number]) < self._within for number in others)

    def _draw(self, generator: np.random.Generator) -> Array:
        """Return places `[4, 2]` that are apart from each other and from where the tool begins."""
        while True:
            places = generator.uniform(self._low, self._high, size=(len(COLORS), 2))
            apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(COLORS))
            if apart.min() > self._min_distance:
                return places


TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, PickPlace, LanguageReach)}


@functools.cache
def compiled(task: type[Task]) -> Any:
    """Return the `mujoco.MjModel` of an arm with a task; copy it before you change it."""
    spec = mujoco.MjSpec.from_string(ARM_XML)
    task.add_to(spec)
    return spec.compile()


def _add_marker(spec: Any, name: str, rgba: tuple[float, ...], radius: float) -> None:
    """Add a ball that touches nothing and is put somewhere at each reset."""
    body = spec.worldbody.add_body(name=name, mocap=True, pos=(0.45, 0.0, radius))
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=(radius, 0, 0), rgba=rgba, contype=0, conaffinity=0)


def _numbers(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _distance(left: Array, right: Array) -> float:
    return math.dist(left, right)
