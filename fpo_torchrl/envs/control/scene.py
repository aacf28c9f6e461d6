"""How every task looks: sky, floor, colours and light. Nothing here has mass or touches anything."""

from __future__ import annotations

import mujoco
from mujoco import mjtGeom, mjtTexture, mjtTrn

SKY = ((0.96, 0.97, 0.99), (0.62, 0.72, 0.85))
"""Colours of the sky, above and below."""
TILES = ((0.90, 0.91, 0.93), (0.82, 0.84, 0.88))
"""Colours of the floor's tiles."""
_COLOURS = {
    "body": (0.93, 0.46, 0.20, 1.0),
    "effector": (0.16, 0.38, 0.68, 1.0),
    "decoration": (0.42, 0.47, 0.55, 1.0),
    "target": (0.13, 0.66, 0.42, 0.6),
}


def new_spec(name: str, *, timestep: float, iterations: int, ls_iterations: int) -> mujoco.MjSpec:
    """An empty model with the solver settings that Playground's tasks share, and the materials to paint it.

    Args:
        name (str): name of the model.
        timestep (float): simulation step in seconds.
        iterations (int): iterations of the constraint solver per step.
        ls_iterations (int): line-search iterations in each of them.
    """
    spec = mujoco.MjSpec()
    spec.modelname = name
    spec.compiler.degree = True
    spec.option.timestep = timestep
    spec.option.iterations = iterations
    spec.option.ls_iterations = ls_iterations
    spec.option.disableflags = mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    _paint(spec)
    return spec


def add_walls(spec: mujoco.MjSpec) -> None:
    """The square arena of the planar tasks: 0.6 m wide, four low walls, seen from above."""
    add_lamp(spec.worldbody, height=1.2)
    spec.worldbody.add_camera(name="view", pos=[0, -0.16, 0.82], xyaxes=[1, 0, 0, 0, 0.98, 0.19])
    add = spec.worldbody.add_geom
    add(name="ground", type=mjtGeom.mjGEOM_PLANE, size=[0.3, 0.3, 0.1], material="fine_floor")
    for name, x, y in (("wall_x", -1, 0), ("wall_y", 0, -1), ("wall_neg_x", 1, 0), ("wall_neg_y", 0, 1)):
        add(
            name=name,
            type=mjtGeom.mjGEOM_PLANE,
            pos=[0.3 * x, 0.3 * y, 0.02],
            zaxis=[-x, -y, 0],
            size=[0.02, 0.3, 0.02] if x else [0.3, 0.02, 0.02],
            material="decoration",
        )


def _paint(spec: mujoco.MjSpec) -> None:
    spec.add_texture(
        name="sky",
        type=mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=SKY[0],
        rgb2=SKY[1],
        width=256,
        height=256 * 6,
    )
    spec.add_texture(
        name="tiles",
        type=mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=TILES[0],
        rgb2=TILES[1],
        width=128,
        height=128,
    )
    for name, tiles_per_metre in (("floor", 1), ("fine_floor", 5)):
        floor = spec.add_material(name=name, texrepeat=[tiles_per_metre] * 2, texuniform=True)
        floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    for name, rgba in _COLOURS.items():
        spec.add_material(name=name, rgba=rgba, specular=0.3, shininess=0.3)
    spec.visual.headlight.ambient = [0.40, 0.40, 0.40]
    spec.visual.headlight.diffuse = [0.16, 0.16, 0.16]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    spec.visual.map.znear = 0.01
    spec.visual.quality.shadowsize = 1024


def add_motor(spec: mujoco.MjSpec, name: str, *, joint: str, gear: float) -> None:
    """A motor on a joint, with actions between -1 and 1."""
    spec.add_actuator(
        name=name, trntype=mjtTrn.mjTRN_JOINT, target=joint, gear=[gear, 0, 0, 0, 0, 0], ctrlrange=[-1, 1]
    )


def add_lamp(body: mujoco.MjsBody, height: float, **options) -> None:
    """One wide lamp that casts soft-edged shadows, ``height`` metres above ``body`` and a little in front."""
    body.add_light(
        pos=[0.1 * height, -0.3 * height, height],
        dir=[-0.1, 0.3, -1],
        diffuse=[0.5, 0.5, 0.5],
        specular=[0.2, 0.2, 0.2],
        cutoff=70,
        exponent=1,
        castshadow=True,
        **options,
    )
