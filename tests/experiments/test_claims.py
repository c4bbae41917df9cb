"""What the claim scripts share, what they say, and the page of papers."""

import jax
import numpy as np
import pytest
from probes import Probe

import envs
from experiments import collect, papers
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.claims.imitation import chunks
from experiments.claims.residual import residual
from jaxrl.data import recording
from jaxrl.learners.on_policy import ppo
from jaxrl.policies.scripted import scripted


def learner():
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(4,), critic_hidden=(4,))
    return ppo.make(Probe(pays=1.0), config)


def test_a_measurement_is_kept_whole_and_not_made_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, num_evals=1, eval_episodes=2, learner_name="ppo")
    assert common.measure("c", "probe", "a", learner, 32, **options) is not None
    assert common.measure("c", "probe", "a", learner, 32, **options) is None
    common.measure("c", "probe", "b", learner, 32, **options)
    first, second = common.load("c")
    assert first["steps"] == [0, 32] and np.shape(first["values"]) == (2, 2)
    assert first["values"][-1] == [1.0, 1.0] and second["variant"] == "b"
    common.report("c", "title", (Comparison("a beats b", "a", "b"),))
    printed = capsys.readouterr().out
    assert "probe" in printed and "no difference" in printed


def test_an_entry_of_other_settings_is_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, num_evals=1, eval_episodes=2, learner_name="ppo", about={"scale": 0.5})
    common.measure("c", "probe", "a", learner, 32, **options)
    entries = common.load("c")
    del entries[0]["config"]["init_log_std"]  # as if the setting were newer: it has its default
    common.save("c", entries)
    common.measure("c", "probe", "a", learner, 32, **options)
    bolder = lambda: ppo.make(Probe(pays=1.0), learner().config.replace(init_log_std=-1.0))
    for make, steps, change, words in (
        (learner, 64, {}, "total_steps=32, now 64"),
        (learner, 32, {"seeds": 3}, "seeds=2, now 3"),
        (learner, 32, {"about": {"scale": 0.3}}, r"scale=0\.5, now 0\.3"),
        (bolder, 32, {}, r"init_log_std=0\.0, now -1\.0"),
    ):
        with pytest.raises(ValueError, match=f"probe, a: kept with {words}; delete"):
            common.measure("c", "probe", "a", make, steps, **(options | change))


def test_values_of_no_learner_are_added_once(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, metric="regret", steps=(0, 10), config={"arms": (2, 3)})
    calls = []
    values = lambda: calls.append(1) or np.array([[1.0, 2.0], [1 / 3, 1e-9 / 3]])
    for _ in range(2):
        common.add("c", "bandit", "ucb", values, **options)
    (kept,) = common.load("c")
    assert len(calls) == 1 and kept["values"] == [[1.0, 2.0], [0.333333, 3.33333e-10]]
    assert kept["metric"] == "regret" and kept["steps"] == [0, 10] and kept["seconds"] >= 0
    assert set(kept["versions"]) >= {"jax"} and kept["hardware"]
    for change, words in (({"seeds": 3}, "seeds=2, now 3"), ({"config": {"arms": 4}}, "arms=")):
        with pytest.raises(ValueError, match=f"bandit, ucb: kept with {words}"):
            common.add("c", "bandit", "ucb", values, **(options | change))
    for wrong in (np.ones(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"must be finite and of shape \[2, 2\]"):
            common.add("c", "bandit", "other", lambda w=wrong: w, **options)
    common.add("c", "bandit", "last", lambda: np.ones(2), seeds=2)
    assert common.load("c")[-1]["values"] == [[1.0, 1.0]]


def test_a_derived_entry_keeps_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.save("c", [entry("a", [1.0, 2.0]) | {"seeds": 2, "seconds": 0}])
    half = lambda factor: common.derive("c", "maze", "half", ["a"], lambda x: x[0] / factor)
    half(2)
    common.save("c", [*common.load("c"), entry("b", [5.0, 6.0])])
    half(4)
    assert [e["variant"] for e in common.load("c")] == ["a", "half", "b"]
    assert common.load("c")[1]["values"][-1] == [0.25, 0.5]


def entry(variant, values, task="maze", metric="success"):
    values = [[0.0] * len(values), list(values)]
    return {"task": task, "variant": variant, "metric": metric, "values": values, "steps": [0, 10]}


def test_a_comparison_has_both_sides_the_interval_and_a_verdict():
    seeds = [0.8, 0.9, 0.9, 0.9, 1.0]
    comparisons = (Comparison("a beats b", "a", "b"), Comparison("a beats c", "a", "c"))
    comparisons += (Comparison("d beats b", "d", "b"),)
    entries = [entry("a", seeds), entry("b", [0.4] * 5)]
    found, absent = common.compared(comparisons, entries)  # none of d, which was not trained
    assert common.cells(found) == [
        *("maze", "a", "0.9 (0.8 .. 1)", "b", "0.4 (0.4 .. 0.4)"),
        *("+0.4333 .. +0.5667", "", "holds", "5", "10"),
    ]
    assert absent.verdict == "not run" and absent.comparison.baseline == "c"
    assert common.cells(absent) == ["maze", "a", "", "c", "", "", "", "not run", "", ""]


def test_a_tolerance_asks_for_not_worse_by_more_than_a_share():
    near = (Comparison("a matches b", "a", "b", tolerance=0.05),)
    for value, word in ((96.0, "holds"), (94.0, "does not hold")):
        (row,) = common.compared(near, [entry("a", [value] * 5), entry("b", [100.0] * 5)])
        assert common.cells(row)[3:5] == ["b less 5%", "95 (95 .. 95)"] and row.verdict == word
    for value, word in ((-104.0, "holds"), (-106.0, "does not hold")):
        (row,) = common.compared(near, [entry("a", [value] * 5), entry("b", [-100.0] * 5)])
        assert row.verdict == word


def test_a_margin_is_in_units_or_a_share_of_the_baseline():
    for margin in ({"margin": 5.0}, {"relative_margin": 0.05}):
        for value, word in ((104.0, "no difference"), (106.0, "holds"), (94.0, "does not hold")):
            (row,) = common.compared(
                (Comparison("a beats b", "a", "b", **margin),),
                [entry("a", [value] * 5), entry("b", [100.0] * 5)],
            )
            assert row.margin == pytest.approx(5.0) and row.verdict == word
            assert common.cells(row)[6] == "5"


def test_a_claim_of_smaller_values_holds_where_they_are_smaller():
    less = lambda **how: (Comparison("a needs less", "a", "b", lower_is_better=True, **how),)
    for how, value, word in (
        ({}, 90.0, "holds"),
        ({}, 110.0, "does not hold"),
        ({"tolerance": 0.2}, 110.0, "holds"),
        ({"tolerance": 0.05}, 110.0, "does not hold"),
        ({"margin": 20.0}, 110.0, "no difference"),
    ):
        (row,) = common.compared(less(**how), [entry("a", [value] * 5), entry("b", [100.0] * 5)])
        assert row.verdict == word
    (row,) = common.compared(less(), [entry("a", [80.0, 90.0, 100.0]), entry("b", [100.0] * 3)])
    assert common.cells(row)[2] == "90 (100 .. 80)"  # the worst seed first


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tolerance": -0.1}, r"tolerance=-0\.1 must be in \[0, 1\)"),
        ({"margin": float("nan")}, "margin=nan must be 0 or more"),
        ({"margin": 1.0, "tolerance": 0.1}, r"give one of tolerance=0\.1, margin=1\.0"),
    ],
)
def test_a_comparison_that_asks_nonsense_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Comparison("a beats b", "a", "b", **fields)


def test_every_claim_and_its_results_are_found(tmp_path):
    found = collect.claims()
    assert found["rlpd_sparse"].path == "off_policy/rlpd_sparse.py"
    assert [r.verdict for r in found["rlpd_sparse"].rows] == ["holds"] * 3
    for name, claim in found.items():  # no comparison of a variant that no entry has
        trained = {e["variant"] for e in common.load(name)}
        for c in claim.comparisons:
            assert not trained or {c.better, c.baseline} <= trained, (name, c.text)
    assert all(claim.rows == () for claim in collect.claims(tmp_path).values())


def test_a_claim_without_comparisons_or_with_a_name_used_twice_is_named(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/mine.py").touch()
    monkeypatch.setattr(collect, "CLAIMS", tmp_path)
    module = type("Module", (), {"NAME": "mine", "COMPARISONS": (), "__doc__": "Mine."})
    monkeypatch.setattr(collect.importlib, "import_module", lambda name: module)
    with pytest.raises(ValueError, match='one/mine.py: a claim defines NAME = "mine" and COMP'):
        collect.claims()
    module.COMPARISONS = (Comparison("a beats b", "a", "b"),)
    assert list(collect.claims()) == ["mine"]
    (tmp_path / "two").mkdir()
    (tmp_path / "two/mine.py").touch()
    with pytest.raises(ValueError, match=r"two/mine\.py: the claim one/mine\.py has this name"):
        collect.claims()


METHOD = "jaxrl/learners/off_policy/sac.py"
LAW = "tests/experiments/test_claims.py::test_a_paper_works_with_a_verdict_about_itself"


def paper(**fields):
    row = {"id": "S001", "name": "P", "title": "Paper", "family": "offline", "status": "open"}
    return papers.Paper(**(row | fields))


def claim(*comparisons, entries=()):
    rows = tuple(common.compared(comparisons, list(entries)))
    return {"c": papers.Claim("c", "one/c.py", "C.", comparisons, rows)}


def others():
    return [paper(id=i) for i in papers.IDS[1:]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "S002"}, "id S001 occurs 0 times"),
        ({"id": "S213"}, "id S001 occurs 0 times"),
        ({"status": "done"}, "S001: status='done' must be one of works, partly"),
        ({"family": "misc"}, "S001: family='misc' must be one of on_policy"),
        ({"method": "jaxrl/none.py"}, "S001: method='jaxrl/none.py' is no file"),
        ({"claims": ("none",)}, "S001: claim 'none' is not in"),
        ({"law": "tests/none.py::test_x"}, "S001: law='tests/none.py::test_x' is no test"),
        ({"law": LAW + "_x"}, "S001: law=.*_x' is no test; write tests/FILE.py::test_NAME"),
        ({"law": "tests/conftest.py"}, "S001: law='tests/conftest.py' is no test"),
        ({"status": "works", "law": LAW, "claims": ("c",)}, "'works' needs the field method"),
        ({"status": "works", "method": METHOD, "claims": ("c",)}, "'works' needs the field law"),
        ({"status": "works", "method": METHOD, "law": LAW}, "'works' needs the field claims"),
        (
            {"status": "works", "method": METHOD, "law": LAW, "claims": ("c",)},
            "no comparison of c was run",
        ),
        ({"status": "partly", "method": METHOD}, "'partly' needs the field missing"),
        ({"status": "elsewhere"}, "'elsewhere' needs the field nearest"),
    ],
)
def test_a_row_of_papers_that_lacks_what_its_status_needs_is_named(fields, words):
    with pytest.raises(ValueError, match=words):
        papers.check([paper(**fields), *others()], claim(Comparison("a beats b", "a", "b")))


def test_a_paper_works_with_a_verdict_about_itself():
    own = Comparison("a beats b", "a", "b", papers=("S001",))
    foreign = Comparison("a beats b", "a", "b", papers=("S002",))
    works = paper(status="works", method=METHOD, law=LAW, claims=("c",))
    entries = [entry("a", [0.9] * 5), entry("b", [0.4] * 5)]
    papers.check([works, *others()], claim(own, entries=entries))
    for claims in (claim(foreign, entries=entries), claim(own, entries=entries[:1])):
        with pytest.raises(ValueError, match="no comparison of c was run"):
            papers.check([works, *others()], claims)


def test_a_paper_shows_the_comparisons_that_name_it_or_else_those_that_name_none():
    named = Comparison("named", "a", "b", papers=("S001",))
    free = Comparison("free", "a", "b")
    (c,) = claim(named, free, entries=[entry("a", [0.9] * 5), entry("b", [0.4] * 5)]).values()
    assert [r.comparison.text for r in c.about("S001")] == ["named"]
    assert [r.comparison.text for r in c.about("S002")] == ["free"]


def test_the_page_of_papers_shows_each_status():
    rows = [
        paper(status="works", method=METHOD, law=LAW, claims=("c",), note="On a toy."),
        paper(id="S002", name="Q", status="partly", method=METHOD, missing="the claim."),
        paper(id="S003", name="R", family="group"),
        paper(id="S004", title="Sky", status="elsewhere", nearest="A kite."),
    ]
    entries = [entry("a", [0.9] * 5), entry("b", [0.4] * 5)]
    text = papers.page(rows, claim(Comparison("a beats b", "a", "b"), entries=entries))
    for line in (
        "| works | 1 | built from its source, its law tested, its claim run with a verdict |",
        "| a beats b | maze | success | a | 0.9 (0.9 .. 0.9) | b | 0.4 (0.4 .. 0.4) | holds | 5 |",
        "On a toy.",
        "Missing: the claim.",
        "**Group-relative learning on token tasks** (1): S003 R.",
        "| S004 | Sky | A kite. |",
    ):
        assert line in text.splitlines()


def test_a_row_of_papers_toml_with_an_unknown_or_missing_field_is_named(tmp_path):
    path = tmp_path / "papers.toml"
    for line, words in (
        ('titel = "x"', "S001: unknown field titel"),
        ("", "field title is missing"),
    ):
        path.write_text(
            f'[[paper]]\nid = "S001"\nname = "P"\nfamily = "group"\nstatus = "open"\n{line}\n'
        )
        with pytest.raises(ValueError, match=words):
            papers.load(path)


def test_steps_to_a_success_are_those_of_the_first_evaluation_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    entry = lambda variant, steps, values: dict(
        task="peg",
        variant=variant,
        metric="success",
        seeds=2,
        seconds=1,
        steps=steps,
        values=values,
    )
    slow = entry("residual PPO", [0, 500, 1000], [[0.0, 0.0], [0.95, 0.0], [0.5, 0.8]])
    fast = entry("residual SAC", [0, 50, 100], [[0.0, 0.91], [0.9, 1.0], [1.0, 1.0]])
    common.save("residual", [slow, fast])
    residual.steps_to_reach("peg")
    last = {e["variant"]: e["values"][-1] for e in common.load("residual")}
    assert last["residual PPO, steps to 0.9 / 5"] == [100.0, 200.0]
    assert last["residual SAC, steps to 0.9"] == [50.0, 0.0]


@pytest.mark.slow
def test_the_way_round_the_block_is_that_of_the_expert():
    """Where the pusher goes, not what is asked: both modes take the short way at times."""
    env = envs.make("push_t", time_limit=60)
    shares = [
        chunks.anticlockwise(recording.record(scripted(env, mode=mode), env, 32, jax.random.key(0)))
        for mode in (0, 1)
    ]
    assert shares[0] > 0.8 and shares[1] < 0.2
