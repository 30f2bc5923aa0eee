"""What is due when (SPEC section 1): phases, updates and cadences, in environment steps."""

import pytest

from lsp_fast.training.schedule import Every, Phase, Schedule


def test_a_cadence_is_due_once_for_each_multiple():
    due = Every(10)
    assert [t for t in range(1, 60, 3) if due(t)] == [10, 22, 31, 40, 52]


def test_learning_begins_once_where_the_prefill_and_an_episode_are_there(smoke):
    schedule = Schedule(smoke(collect__prefill=100))
    assert schedule.phase is Phase.RANDOM and schedule.updates_due(10_000) == 0
    assert not schedule.advance(99, 1) and not schedule.advance(100, 0) and schedule.phase is Phase.RANDOM
    assert schedule.advance(120, 1) and schedule.phase is Phase.LEARNING and schedule.learning_since == 120
    assert not schedule.advance(140, 2) and schedule.learning_since == 120


def test_a_policy_that_was_taken_over_fills_the_replay_and_relabelled_experience_is_there(smoke):
    taken = Schedule(smoke(transfer__source="elsewhere", collect__prefill=100))
    assert taken.phase is Phase.LOADED_POLICY and not taken.advance(50, 3) and taken.advance(100, 3)
    relabelled = Schedule(smoke(transfer__source="elsewhere", transfer__relabel=True, collect__prefill=100))
    assert relabelled.advance(2, 1) and relabelled.phase is Phase.LEARNING


@pytest.mark.parametrize(("overlap", "first"), [(False, 7), (True, 3)])
def test_updates_are_owed_before_the_next_step_or_beside_it(smoke, overlap, first):
    schedule = Schedule(smoke(collect__prefill=100, train__pretrain=3, train__train_every=5, train__overlap=overlap))
    schedule.advance(100, 1)
    assert [schedule.updates_due(n) for n in (100, 104, 105, 120)] == [3, 3, 4, 7]
    assert schedule.updates_due_first(120) == first and schedule.updates_due_first(100) == 3
    assert [schedule.pretraining(n) for n in (0, 2, 3)] == [True, True, False]
    assert [n for n in range(3, 20) if schedule.diagnosing(n)] == [3, 7, 11, 15, 19]


def test_scales_are_taken_anew_as_the_replay_grows_but_not_those_that_were_taken_over(smoke):
    replay = {"model__normaliser": "replay", "model__normaliser_every": 50}
    for options, wanted in ((replay, [150, 200]), ({}, []), ({**replay, "transfer__source": "elsewhere"}, [])):
        schedule = Schedule(smoke(collect__prefill=100, **options))
        found = [n for n in range(3, 220, 3) if schedule.advance(n, 1) or schedule.refits(n - 3, n)]
        begun, found = found[0], found[1:]
        assert begun == schedule.learning_since and [n // 50 * 50 for n in found] == wanted


def test_it_goes_on_where_it_was_saved_and_another_cadence_counts_anew(smoke):
    schedule = Schedule(smoke(collect__prefill=100, train__log_every=50))
    schedule.advance(110, 1)
    assert schedule.log(120) and not schedule.log(140)
    state = {**schedule.state_dict(), "env_steps": 140}
    same, other = Schedule(smoke(collect__prefill=100, train__log_every=50)), Schedule(smoke(train__log_every=30))
    for again in (same, other):
        again.load_state_dict(state)
        assert again.phase is Phase.LEARNING and again.learning_since == 110
    assert not same.log(149) and same.log(150) and not other.log(149) and other.log(150)
