"""The training update that is timed beside its peers: its parts, what they are compared with, what they multiply."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("update", "world_model", "behavior")
SLOWER = [("update", "fp32"), pytest.param("update", "bf16", marks=pytest.mark.slow), ("behavior", "fp32")]


@pytest.fixture(scope="module", autouse=True)
def path():
    """Benchmarks import each other by name."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_trains_its_modules_alone(part):
    from peers import update_problem

    want = update_problem.expected("smoke", 4, part)
    before, after = ({k: update_problem.leaves(x) for k, x in y.items()} for y in (want.before, want.after))
    moved = {name for name in before if not all(map(torch.equal, before[name], after[name]))}
    assert moved == set(update_problem.PARTS[part])
    prefixes = {name.split("/")[0] for name in want.losses[0]}
    assert prefixes == ({"world_model", "behavior"} if part == "update" else {part})


@pytest.mark.parametrize("part", PARTS)
def test_native_parts_are_the_references(part):
    from peers import update_problem

    pytest.importorskip("lsp_fast._native")
    agent = update_problem.agent_of("smoke", 4, backend="cpp", planner__noise="tensors")
    function = update_problem.function_of_part(agent, part, 4)
    update_problem.compare(agent, function, part, update_problem.expected("smoke", 4, part))


def test_what_differs_is_not_handed_out():
    from peers import update_problem

    want = update_problem.expected("smoke", 4, "world_model")
    update_problem.check("world_model", want, want.losses, want.after)
    with pytest.raises(AssertionError, match="steps of world_model"):
        update_problem.check("world_model", want, want.losses, want.before)
    wrong = [want.losses[0], {k: 1.01 * v for k, v in want.losses[1].items()}]
    with pytest.raises(AssertionError, match="world_model/loss"):
        update_problem.check("world_model", want, wrong, want.after)


@pytest.mark.parametrize("part", PARTS)
def test_jax_makes_the_same_update(part):
    pytest.importorskip("jax")
    from peers import jax_update

    jax_update.checked("smoke", 4, part)


def test_jax_draws_its_own_numbers(monkeypatch):
    pytest.importorskip("jax")
    from peers import jax_update

    run = jax_update.build("smoke", 4, "behavior", "bf16")
    losses = [{name: float(x) for name, x in run().items()} for _ in range(3)]
    assert len({loss["behavior/actor_loss"] for loss in losses}) == 3
    assert all(abs(x) < 1e4 for loss in losses for x in loss.values())


def test_jax_is_not_timed_where_it_differs(monkeypatch):
    pytest.importorskip("jax")
    from peers import jax_update

    monkeypatch.setattr(jax_update, "soft_clamp_std", lambda x, low, high: jax_update.jnp.exp(x))
    with pytest.raises(AssertionError, match="world_model/loss"):
        jax_update.build("smoke", 4, "world_model")


def test_jax_refuses_what_it_does_not_know():
    pytest.importorskip("jax")
    from peers import jax_update, update_problem

    with pytest.raises(ValueError, match="without its options"):
        jax_update.Update(update_problem.agent_of("smoke", 4, skill__intrinsic_form="end"), 4)


@pytest.mark.parametrize(("part", "precision"), SLOWER)
def test_a_compiled_update_is_the_same(monkeypatch, part, precision):
    from peers import compiled_update

    from lsp_fast.learning import compiled

    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")  # the code generator takes minutes
    metrics = compiled_update.build("smoke", 4, part, precision)()
    assert metrics["behavior/actor_loss"].isfinite()


def test_operations_counted_by_hand():
    from operations import update_operations

    from lsp_fast.config import make_config

    found = update_operations(make_config("smoke"), observation=5, action=2)
    encoder, decoder, reward = 5 * 16 + 16 * 16, 22 * 16 + 16 * 16 + 16 * 10, 22 * 16 + 16 * 16 + 16
    prior_in, gru, prior, posterior = 8 * 16, 2 * 16 * 48, 16 * 16 + 16 * 12, 32 * 16 + 16 * 12
    actor, value, predictor = 25 * 16 + 16 * 16 + 16 * 4, reward, 242 * 16 + 16 * 16 + 16 * 6
    # Forward, to weights, to inputs: three times the same but at the first layers.
    model = 3 * (encoder + prior_in + gru + prior + posterior + decoder + reward) - 5 * 16 - 2 * 16
    assert found["world_model"] == 2 * 32 * model == 865_280
    step = 3 * actor - 25 * 16 + 2 * (prior_in + gru + prior + reward) + 3 * value
    information = 2 * predictor - 22 * 16 + 3 * predictor - 242 * 16
    assert found["behavior"] == 2 * 8 * (11 * step + information) == 1_872_640
    rollouts = 2 * 4 * 6 * 10  # iterations, states, candidates, steps
    assert found["plan"] == 2 * rollouts * (prior_in + gru + prior + actor + reward + value) == 3_916_800
    assert found["update"] == 865_280 + 1_872_640 + 3_916_800


def test_a_plan_is_counted_as_before():
    from operations import update_operations
    from peers.problem import problem

    from lsp_fast.config import make_config

    counted = update_operations(make_config("paper", behavior__plan_states=32), 78, 12)["plan"]
    assert counted == pytest.approx(32 * problem("paper", 1).operations)


def test_plans_in_bf16_have_no_share_of_an_updates_peak():
    import measure

    pytest.importorskip("lsp_fast._native")
    work = measure.Work("x", "a", {"a": lambda: 1, "b": lambda: 1}, operations=1e3, mixed=["b"])
    a, b = measure.compare(work, samples=1, min_seconds=1e-4)
    assert a.peak is not None and b.peak is None


def result(threads, *works):
    variants = ("eager" if works[0].startswith("plan") else "reference", "C++", "C++ bf16", "torch.compile", "JAX")
    rows = [
        {"work": work, "variant": variant, "ms": 10.0 / i, "ratio": float(i), "spread": 0.1, "peak": 0.1 * i}
        for work in works
        for i, variant in enumerate(variants, 1)
    ]
    return {"threads": threads, "rows": rows, "command": "c", "processor": "p", "date": "d", "torch": "1"}


def test_updates_come_from_their_own_files(monkeypatch, tmp_path):
    import json

    import speed_page

    names = ("cpu_1_thread", "cpu_2_threads", "update_1_thread", "update_2_threads")
    files = [tmp_path / f"{name}.json" for name in names]
    monkeypatch.setattr(speed_page, "RESULTS", files)
    files[0].write_text(json.dumps(result(1, "plan, cpu preset", "update, cpu preset")))
    assert "training update" not in speed_page.tables() and "| plan (states" in speed_page.tables()
    files[2].write_text(json.dumps(result(1, "update, cpu preset", "update of the behaviour alone, cpu preset")))
    text = speed_page.tables()
    assert "| whole training update | threads | reference ms | torch.compile | JAX | **C++** | of peak |" in text
    assert "| cpu preset | 1 | 10 | 4.0 × | 5.0 × | 2.0 × | 20% |" in text
    assert "| behaviour alone, cpu preset | 1 | 10 | 4.0 × | 5.0 × | 2.0 × | 20% |" in text
    assert "| cpu preset | 1 | 10 | – | – | 3.0 × |" in text  # plans in bf16
    assert text.count("([JSON]") == 2
