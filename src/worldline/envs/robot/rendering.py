"""Cameras without a display.

MuJoCo chooses how to make a graphics context when it is imported, from the variable MUJOCO_GL, which is too early for
a library: here it is chosen when the first image is asked for. The variable still decides if it is set.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any

import mujoco
import numpy as np

from worldline.episode import Array
from worldline.errors import ConfigError, MissingPackageError, nearest

_MAX_GEOMS = 200
_SAMPLES = 2  # a pixel is the mean of so many in each direction, as smooth as multisampling and a third of its cost
_IMPORTS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw"}

# A context costs some 50 ms and 30 MB, and serves every model of one file: those that live share theirs.
_CANVASES: weakref.WeakValueDictionary[tuple[str, tuple[int, int]], Canvas] = weakref.WeakValueDictionary()


class Canvas:
    """Where images `[H, W, 3]` uint8 of models with the same parts are drawn; `canvas_of` makes them."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        height, width = _SAMPLES * size[0], _SAMPLES * size[1]
        self._gl = _make_context(width, height)
        self._gl.make_current()
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), dtype=np.uint8)

    def draw(self, model: Any, data: Any, camera_id: int) -> Array:
        """Return what a camera of the model sees, `[H, W, 3]` uint8."""
        self._gl.make_current()
        self._camera.fixedcamid = camera_id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return _halved(self._pixels[::-1])  # rows come from the bottom up

    def free(self) -> None:
        """Give the graphics memory back."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def canvas_of(task: str, model: Any, size: tuple[int, int]) -> Canvas:
    """Return the canvas of a task's models, in the size asked for; it lives as long as someone holds it.

    Raises:
        ConfigError: MUJOCO_GL names no way to render.
        MissingPackageError: There is nothing here to render with.
    """
    canvas = _CANVASES.get((task, size))
    if canvas is None:
        canvas = _CANVASES[(task, size)] = Canvas(model, size)
        atexit.unregister(_free_all)  # it has to run before what the graphics library has registered by now
        atexit.register(_free_all)
    return canvas


def camera_id(model: Any, name: str) -> int:
    """Return the number of a camera.

    Raises:
        ConfigError: There is none of that name.
    """
    number = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name))
    if number < 0:
        known = [model.camera(place).name for place in range(model.ncam)]
        raise ConfigError(f"There is no camera {name!r}. {nearest(name, known)}")
    return number


def _halved(image: Array) -> Array:
    """Return the means of squares of four pixels, `[H, W, 3]` of `[2 H, 2 W, 3]`."""
    total = image[::2, ::2].astype(np.uint16)
    for other in (image[1::2, ::2], image[::2, 1::2], image[1::2, 1::2]):
        total += other
    total += 2  # rounds
    mean: Array = (total >> 2).astype(np.uint8)
    return mean


def _free_all() -> None:
    for canvas in list(_CANVASES.values()):
        canvas.free()


def _make_context(width: int, height: int) -> Any:
    has_display = sys.platform != "linux" or bool(os.environ.get("DISPLAY"))
    chosen = os.environ.get("MUJOCO_GL", "").lower() or ("glfw" if has_display else "egl")
    if chosen not in _IMPORTS:
        raise ConfigError(f"The variable MUJOCO_GL is {chosen!r}, which does not render. {nearest(chosen, _IMPORTS)}")
    try:
        if chosen == "egl":
            from mujoco.egl import GLContext
        elif chosen == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.glfw import GLContext
        return GLContext(width, height)
    except (ImportError, AttributeError) as error:  # PyOpenGL raises the latter where the library is not there
        raise MissingPackageError(
            f"Images of a robot: environment need {chosen.upper()} to render, which does not work here ({error}). "
            "Install libegl1 and set MUJOCO_GL=egl, or libosmesa6 and MUJOCO_GL=osmesa; without images nothing of it "
            "is needed."
        ) from error
