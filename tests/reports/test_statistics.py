"""Means where seeds share their xs, interquartile means, and their intervals."""

import numpy as np
import pytest

from lsp_fast.reports.statistics import interquartile_mean, interval, pool, reference_curve, shared

NAN = pytest.approx(np.nan, nan_ok=True)


def row(xs, ys, task="t", seed=0):
    return {"task": task, "method": "m", "seed": seed, "xs": xs, "ys": ys}


def test_the_mean_is_over_the_xs_that_all_seeds_have():
    # Positions alone would pair the second row's 30 with the first one's 20.
    xs, values = shared([row([10, 20, 30], [1.0, 2.0, 3.0]), row([10, 30, 40], [3.0, 5.0, 9.0])])
    assert xs == [10, 30]
    np.testing.assert_array_equal(values, [[1.0, 3.0], [3.0, 5.0]])


def test_a_score_that_was_not_finite_is_a_gap():
    xs, values = shared([row([1, 2], [1.0, None]), row([1, 2], [3.0, 3.0])])
    assert xs == [1, 2]
    np.testing.assert_array_equal(values.mean(0), [2.0, np.nan])


def test_a_published_seed_counts_with_its_last_point_at_or_before():
    xs, ys = reference_curve([row([30, 0, 20], [9.0, 1.0, 5.0]), row([10, 20, 25, 40], [3.0, None, 7.0, 0.0])])
    assert xs.tolist() == [10, 20, 25, 30]
    assert ys.tolist() == [(1 + 3) / 2, (5 + 3) / 2, (5 + 7) / 2, (9 + 7) / 2]
    xs, ys = reference_curve([row([1, 2], [1.0, 2.0]), row([3], [1.0])])
    assert xs.size == ys.size == 0


def test_the_interval_is_that_of_the_mean_over_seeds():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(400, 2)) * [1.0, 10.0] + [0.0, 50.0]
    low, high = interval(values)
    width = 2 * 1.96 * values.std(0) / 20
    np.testing.assert_allclose(high - low, width, rtol=0.1)
    np.testing.assert_allclose((high + low) / 2, values.mean(0), atol=0.05 * width.max())
    assert np.isnan(interval(np.array([[1.0, np.nan], [2.0, 3.0]]))).tolist() == [[False, True]] * 2


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_of_two_or_three_seeds_is_their_range_at_every_x(seeds):
    values = np.random.default_rng(4).normal(size=(seeds, 200))
    for count in (1, 19, 59, 200):
        low, high = interval(values[:, :count])
        np.testing.assert_allclose([low, high], [values.min(0)[:count], values.max(0)[:count]], rtol=1e-12)


def test_the_same_seeds_are_drawn_at_every_x():
    scores = np.random.default_rng(5).normal(size=(5, 3))
    alone = interquartile_mean(scores[..., None])
    mean, bounds = interquartile_mean(np.repeat(scores[..., None], 50, 2))
    # The sums may be taken in another order.
    np.testing.assert_allclose(mean, np.repeat(alone[0], 50), rtol=1e-12)
    np.testing.assert_allclose(bounds, np.repeat(alone[1], 50, 1), rtol=1e-12)


# The interquartile mean


@pytest.mark.parametrize(
    ("scores", "by_hand"),
    [
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0]], 4.5),  # of eight the middle four: 3, 4, 5, 6
        ([[8.0, 1.0], [7.0, 2.0], [-90.0, 3.0], [6.0, 5.0]], 4.0),  # over two tasks together: 2, 3, 5, 6
        ([[0.0, 1.0, 2.0, 3.0, 400.0]], 2.0),  # of five one at each end
        ([[1.0, 2.0, 6.0]], 3.0),  # of three none
        ([[1.0, 5.0]], 3.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(scores, by_hand):
    from rliable import metrics

    scores = np.array(scores).T if len(scores) == 1 else np.array(scores)  # [seeds], or [seeds, tasks]
    scores = scores.reshape(len(scores), -1, 1)  # [seeds, tasks, xs]
    mean, bounds = interquartile_mean(np.concatenate([scores, 10 * scores], 2))
    np.testing.assert_allclose(mean, [by_hand, 10 * by_hand])
    np.testing.assert_allclose(mean[0], metrics.aggregate_iqm(scores))
    low, high = bounds
    assert (low <= mean).all() and (mean <= high).all()


def test_its_interval_is_that_of_an_independent_stratified_bootstrap():
    rng = np.random.default_rng(5)
    # Tasks far apart: were seeds not drawn within each task, the interval would be many times wider.
    scores = rng.normal(size=(12, 3)) * [0.02, 0.05, 0.03] + [0.1, 0.5, 0.9]
    mean, (low, high) = interquartile_mean(scores[..., None])
    drawn = [np.sort([scores[rng.integers(12), task] for task in range(3) for _ in range(12)]) for _ in range(1500)]
    expected = np.percentile([np.mean(values[9:27]) for values in drawn], [2.5, 97.5])
    width = expected[1] - expected[0]
    np.testing.assert_allclose([low[0], high[0]], expected, atol=0.1 * width)
    assert low[0] < mean[0] < high[0]


def test_the_interval_depends_on_the_scores_alone():
    scores = np.random.default_rng(6).normal(size=(5, 2, 3))
    np.random.seed(1)
    mean, bounds = interquartile_mean(scores)
    following = np.random.random()
    np.random.seed(2)
    again, bounds_again = interquartile_mean(scores[::-1])
    np.testing.assert_array_equal([mean, *bounds], [again, *bounds_again])
    np.testing.assert_array_equal(interval(scores[:, 0]), interval(scores[::-1, 0]))
    # And what NumPy draws elsewhere does not depend on it.
    np.random.seed(1)
    assert np.random.random() == following


def test_one_seed_has_no_interval_and_null_scores_make_gaps():
    mean, bounds = interquartile_mean(np.array([[[1.0, np.nan]]]))
    np.testing.assert_array_equal(mean, [1.0, np.nan])
    assert bounds is None
    mean, bounds = interquartile_mean(np.array([[[1.0, np.nan], [3.0, 4.0]]]))  # two tasks
    np.testing.assert_array_equal(mean, [2.0, np.nan])
    assert bounds is None
    mean, (low, high) = interquartile_mean(np.array([[[1.0, np.nan]], [[3.0, 4.0]]]))
    np.testing.assert_array_equal([mean, low, high], [[2.0, np.nan], [1.0, np.nan], [3.0, np.nan]])
    # Nor is a null score among four or more cut off as if it were the largest.
    mean, (low, high) = interquartile_mean(np.array([[[y, y]] for y in (1.0, 2.0, 3.0, 4.0)] + [[[5.0, np.nan]]]))
    assert mean.tolist() == [3.0, NAN] and np.isnan([low[1], high[1]]).all() and low[0] < 3.0 < high[0]
    mean, bounds = interquartile_mean(np.full((2, 1, 1), np.nan))
    assert np.isnan([mean, *bounds]).all()


def test_seeds_are_drawn_within_their_task():
    # Every seed returns the same, so that other seeds would change nothing, however far apart the tasks are.
    of, warnings = pool(
        {t: [row([1, 2], [y, y], t, seed=seed) for seed in range(3)] for t, y in (("a", 100), ("b", 900))}
    )
    assert of and warnings == [] and (of.seeds, of.tasks, of.final) == (3, 2, 0.5)
    assert of.final_interval == (0.5, 0.5)
    np.testing.assert_array_equal([of.curve, *of.band], 0.5)
