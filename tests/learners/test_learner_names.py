"""What is said about a name of a learner that leads nowhere."""

import pytest

from jaxrl.learners import registry


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("sca", "", "learner='sca': allowed are bc, .*, or MODULE:make"),
        (
            "mine",
            "jaxrl.learners.off_policy.mine",
            "cannot import 'jaxrl.learners.off_policy.mine'",
        ),
        (
            "mine",
            "jaxrl.learners.registry",
            "jaxrl.learners.registry must have `Config` and `make`",
        ),
        ("jaxrl.types:make", "", "jaxrl.types must have `Config` and `make`"),
        ("jaxrl.learners.off_policy.sac:", "", "sac must have `Config` and `make`"),
    ],
)
def test_a_name_that_leads_to_no_learner_is_refused(name, path, message, monkeypatch):
    if path:
        monkeypatch.setitem(registry.LEARNERS, name, path)
    with pytest.raises(ValueError, match=message):
        registry.module(name)


def test_a_learner_of_another_project_is_found_by_its_path():
    path = registry.LEARNERS["sac"]
    assert registry.module(f"{path}:make") is registry.module("sac")
