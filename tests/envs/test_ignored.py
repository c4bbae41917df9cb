"""What MJX leaves out of a model is named when the model is loaded."""

import re
import warnings
from pathlib import Path

import gymnasium
import mujoco
import pytest
from mujoco import mjx

from envs.mjx.ignored import FIELDS, ignored
from envs.mjx.simulator import load

XML = """
<mujoco>
  <option {option}><flag {flag}/></option>
  <worldbody>
    <body><joint name="hip" {joint}/><geom name="ball" size=".1" {geom}/></body>
  </worldbody>
  <tendon><fixed name="rope" {tendon}><joint joint="hip" coef="1"/></fixed></tendon>
  <actuator>
    <general name="servo" joint="hip" {actuator}/><motor name="spare" joint="hip" group="2"/>
  </actuator>
  <sensor><jointpos name="angle" joint="hip" {sensor}/></sensor>
</mujoco>"""
PARTS = ("option", "flag", "joint", "geom", "tendon", "actuator", "sensor")


def model(**parts: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(XML.format(**(dict.fromkeys(PARTS, "") | parts)))


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({}, []),
        ({"option": 'density="1"', "joint": 'damping="1" stiffness="2"'}, []),
        ({"actuator": 'delay="0.02" nsample="4"'}, ["actuator delay (servo)"]),
        ({"actuator": 'actearly="true" dyntype="integrator"'}, ["actuator actearly (servo)"]),
        ({"actuator": 'damping="1"'}, ["actuator damping (servo)"]),
        ({"actuator": 'armature="1"'}, ["actuator armature (servo)"]),
        ({"joint": 'stiffness="2 1 1"'}, ["joint stiffness (polynomial) (hip)"]),
        ({"joint": 'damping="1 2 3"'}, ["dof damping (polynomial) (hip)"]),
        ({"joint": 'stiffness="1" springyield="1"'}, ["joint springyield (hip)"]),
        ({"geom": 'surfacevel="1 0 0"'}, ["geom surfacevel (ball)"]),
        ({"geom": 'adhesion="1"'}, ["geom adhesion (ball)"]),
        ({"geom": 'fluidshape="ellipsoid"'}, []),
        (
            {"geom": 'fluidshape="ellipsoid"', "option": 'viscosity="1"'},
            ['geom fluidshape="ellipsoid" (ball)'],
        ),
        ({"tendon": 'stiffness="1 1 1"'}, ["tendon stiffness (polynomial) (rope)"]),
        (
            {"sensor": 'delay="0.02" nsample="3" interval="0.01"'},
            ["sensor delay (angle)", "sensor interval (angle)"],
        ),
        ({"option": 'noslip_iterations="3"'}, ["option noslip_iterations=3"]),
        ({"option": 'actuatorgroupdisable="2"'}, ["option actuatorgroupdisable (spare)"]),
        ({"flag": 'sleep="enable"'}, ["flag sleep"]),
        ({"flag": 'spring="disable"'}, ["every passive force beside the disabled spring"]),
        ({"flag": 'spring="disable" damper="disable"'}, []),
    ],
)
def test_a_feature_is_named_with_the_elements_that_use_it(parts, named):
    assert ignored(model(**parts)) == named


def test_loading_such_a_model_warns_in_one_line():
    delayed = model(actuator='delay="0.02" nsample="4"', option='noslip_iterations="3"')
    message = r"MJX ignores of this model: actuator delay \(servo\), option noslip_iterations=3; it"
    with pytest.warns(UserWarning, match=message) as caught:
        load(delayed)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(model())


def test_the_models_of_this_project_use_none():
    ours = Path(__file__).parents[2] / "envs/tasks/assets"
    theirs = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    paths = [*ours.glob("*.xml"), *theirs.glob("*.xml")]
    assert len(paths) > 10
    for path in paths:
        assert ignored(mujoco.MjModel.from_xml_path(str(path))) == [], path.name


def test_the_fields_are_still_read_by_no_file_of_mjx():
    """A field that the installed MJX reads is no longer ignored, and must leave the table."""
    folder = Path(mjx.__file__).parent / "_src"
    left_out = {"types.py", "io.py"}  # they copy whole models
    files = [p for p in folder.glob("*.py") if p.name not in left_out and "test" not in p.name]
    text = "\n".join(p.read_text() for p in files)
    assert re.search(r"\bactuator_gear\b", text)
    read = [field for _, field, _ in FIELDS if re.search(rf"\b{field}\b", text)]
    assert read == []
