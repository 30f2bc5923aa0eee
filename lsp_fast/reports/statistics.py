"""What runs say together: means over seeds, interquartile means over tasks, and their intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.reports.scores import Row

RESAMPLES = 2000
"""Of the bootstrap."""
MOST = 1000
"""What an episode of dm_control returns at most, 1000 steps of rewards up to 1; several tasks together are in shares of
it."""


def shared(seeds: Iterable[Row]) -> tuple[list[int], np.ndarray]:
    """The xs that all rows share, and each row's ys there, [seeds, xs]; a score that was not finite (null) is NaN."""
    curves = [dict(zip(row["xs"], np.array(row["ys"], float), strict=True)) for row in seeds]
    xs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return xs, np.array([[curve[x] for x in xs] for curve in curves])


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap of the mean over seeds: values [seeds, xs] -> low [xs], high [xs].

    Of two or three seeds it is just the range. Errors and what gives NaN are as in `interquartile_mean`.
    """
    return _bootstrap(values[:, None], lambda drawn: drawn.mean((0, 1)))


def interquartile_mean(scores: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Mean of the middle half of scores, by rliable (Agarwal et al. 2021). Of fewer than four scores it is their mean.

    Args:
        scores: [seeds, tasks, xs].

    Returns:
        the mean over all seeds and tasks [xs], and its 95 % stratified percentile bootstrap, low [xs] and high [xs]:
        seeds are drawn for every task by itself, tasks are not. None for one seed. An x with a score that was not
        finite gives NaN. The same scores give the same interval, whatever the order of seeds.

    Raises:
        LspFastError: rliable cannot be imported.
    """
    seeds, tasks, count = scores.shape
    # The same as rliable's aggregate_iqm, which knows no xs: called for each of them, it is many times slower.
    cut = seeds * tasks // 4

    def middle(drawn: np.ndarray) -> np.ndarray:
        return np.sort(drawn.reshape(seeds * tasks, -1), axis=0)[cut : seeds * tasks - cut].mean(0)

    # Trimming would take a NaN for the largest score, and drop it.
    known = np.isfinite(scores).all((0, 1))
    found = np.full(count, np.nan)
    if known.any():
        found[known] = middle(scores[..., known])
    return found, None if seeds == 1 else _bootstrap(scores, middle)


def _bootstrap(scores: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """rliable's stratified percentile bootstrap with fixed draws: low [xs] and high [xs] of statistic(scores).

    Args:
        scores: [seeds, tasks, xs]; an x with one that is not finite gives NaN.
        statistic: [seeds, tasks, xs] -> [xs].
    """
    rliable, bounds = _rliable(), np.full((2, scores.shape[-1]), np.nan)
    known = np.isfinite(scores).all((0, 1))
    if known.any():
        seeds, tasks, _ = scores.shape
        # Sorted, as draws pick seeds by their place.
        ordered, columns = np.sort(scores[..., known], axis=0), np.arange(tasks)
        # rliable draws the places, and so the same for every x. Draws of its own at each x would give a band of three
        # seeds a dent wherever their least likely draws, of one seed thrice, happen to be too few for the percentile.
        places = np.repeat(np.arange(seeds)[:, None], tasks, axis=1)
        with _fixed_draws():
            _, found = rliable.get_interval_estimates(
                {"": places}, lambda drawn: statistic(ordered[drawn, columns]), reps=RESAMPLES
            )
        bounds[:, known] = found[""]
    return bounds[0], bounds[1]


def _rliable() -> Any:
    # Only here: it imports pandas and statsmodels, which take their time.
    try:
        from rliable import library
    except Exception as error:  # arch, which it stands on, fails with a TypeError beside pandas 3
        raise LspFastError(
            f'rliable, which intervals need, cannot be imported ({error}); pip install rliable "pandas<3"'
        ) from error
    return library


@contextmanager
def _fixed_draws() -> Iterator[None]:
    """rliable 1.2 draws from NumPy's global generator, whatever random_state it is given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def reference_curve(seeds: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over rows where all of them reach. Published seeds rarely share their xs: each counts with its last point at
    or before an x, as nothing between two points was measured."""
    curves = [np.array(sorted((x, y) for x, y in zip(row["xs"], row["ys"], strict=True) if y is not None)).T
              for row in seeds]  # fmt: skip
    low, high = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    xs = np.unique(np.concatenate([curve[0] for curve in curves]))
    xs = xs[(xs >= low) & (xs <= high)]
    return xs, np.mean([ys[np.searchsorted(at, xs, side="right") - 1] for at, ys in curves], axis=0)


class Pooled(NamedTuple):
    """One method's normalised returns over all tasks, as interquartile means."""

    seeds: int
    tasks: int
    ends: list[int]
    """Where each task's last common evaluation lies."""
    final: float
    final_interval: tuple[float, float] | None
    xs: list[int]
    """That all of its runs share."""
    curve: np.ndarray
    """[xs]"""
    band: tuple[np.ndarray, np.ndarray] | None
    """[xs] each; None for one seed."""


def pool(tasks: Mapping[str, Sequence[Row]]) -> tuple[Pooled | None, list[str]]:
    """One method's rows by task -> interquartile means, and warnings; None where tasks share no seed, or seeds no x."""
    used, left = _same_seeds(tasks)
    if not any(used.values()):
        return None, ["no seed was run on every task; left out"]
    warnings = []
    if left:
        seeds = "; ".join(f"{', '.join(names)} of {task}" for task, names in left.items())
        warnings.append(f"seeds left out, as not every task has them: {seeds}")
    alone = {task: shared(rows) for task, rows in used.items()}
    for task, (xs, _) in alone.items():
        if not xs:
            return None, [*warnings, f"the seeds of {task} share no evaluation; left out"]
    ends = [xs[-1] for xs, _ in alone.values()]
    if len(set(ends)) > 1:
        at = ", ".join(map(str, sorted(set(ends))))
        warnings.append(f"the tasks end at {at} environment steps; each counts with its own last common evaluation")
    mean, bounds = interquartile_mean(np.stack([values[:, -1:] for _, values in alone.values()], 1) / MOST)
    xs, values = shared(row for rows in used.values() for row in rows)  # [tasks · seeds, xs]
    if not xs:
        warnings.append("its runs share no evaluation; there is no curve")
    seeds = len(values) // len(used)
    curve, band = interquartile_mean(values.reshape(len(used), seeds, len(xs)).swapaxes(0, 1) / MOST)
    return Pooled(seeds, len(used), ends, float(mean[0]), pair(bounds), xs, curve, band), warnings


def _same_seeds(tasks: Mapping[str, Sequence[Row]]) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """Of each task the rows of the seeds that all tasks have, equally many; and the seeds left out, by task."""
    names = {task: Counter(json.dumps(row["seed"]) for row in rows) for task, rows in tasks.items()}
    common = Counter({seed: min(count[seed] for count in names.values()) for seed in set().union(*names.values())})
    used: dict[str, list[Row]] = {}
    left: dict[str, list[str]] = {}
    for task, rows in tasks.items():
        room, used[task] = common.copy(), []
        # A seed may be there twice; the scores then say which is taken, not the order in which they were read.
        for row in sorted(rows, key=lambda row: json.dumps([row[k] for k in ("seed", "xs", "ys")])):
            seed = json.dumps(row["seed"])
            room[seed] -= 1
            if room[seed] >= 0:
                used[task].append(row)
            else:
                left.setdefault(task, []).append(seed)
    return used, left


def pair(bounds: tuple[np.ndarray, np.ndarray] | None) -> tuple[float, float] | None:
    """Bounds of one x as numbers."""
    return None if bounds is None else (float(bounds[0][0]), float(bounds[1][0]))
