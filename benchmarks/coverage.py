"""How often intervals hold the truth, by simulation: `python -m benchmarks.coverage [--studies 2000]`.

Prints the table that `mbrl.experiments.coverage` holds, and, with `--alternatives`, what other intervals of an
interquartile mean would have reached: docs/statistics.md quotes it. The studies are the same for all of them.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats

from mbrl.experiments.coverage import COVERAGE, MOST, SHAPES, simulate, simulate_differences, truth
from mbrl.experiments.decisions import Sample, judge
from mbrl.experiments.statistics import TRIMMED, Z, interval, iqm

RESAMPLES = 1_000
Method = Callable[[np.ndarray, np.random.Generator], tuple[float, float]]


def ours(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """The library's."""
    found = interval(values)
    assert found is not None
    return float(found.low), float(found.high)


def percentile(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """The plain percentile bootstrap."""
    low, high = np.quantile(iqm(_resample(values, generator)), (0.025, 0.975))
    return float(low), float(high)


def bca(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Bias-corrected and accelerated (Efron 1987)."""
    estimate, resampled = float(iqm(values)), iqm(_resample(values, generator))
    below = np.mean(resampled < estimate) + 0.5 * np.mean(resampled == estimate)
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    left_out = np.array([iqm(np.delete(values, i)) for i in range(len(values))])
    away = left_out.mean() - left_out
    scale = 6 * (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / scale if scale > 0 else 0.0
    shifted = bias + np.array([-Z, Z])
    low, high = np.quantile(resampled, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def tukey_mclaughlin(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Student's t of a trimmed mean with its winsorised deviation (Tukey and McLaughlin 1963)."""
    kept = len(values) - 2 * int(TRIMMED * len(values))
    half = float(stats.t.ppf(0.975, kept - 1)) * float(_error(values))
    return float(iqm(values)) - half, float(iqm(values)) + half


def bootstrap_t(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Studentised by the winsorised deviation, symmetric (Wilcox 2017, section 4.4.5)."""
    resampled = _resample(values, generator)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(iqm(resampled) - iqm(values)) / _error(resampled)
    half = float(np.quantile(np.nan_to_num(t, nan=0.0, posinf=1e9), 0.95)) * float(_error(values))
    return float(iqm(values)) - half, float(iqm(values)) + half


METHODS: tuple[Method, ...] = (ours, percentile, bca, tukey_mclaughlin, bootstrap_t)


def _resample(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return values[generator.integers(0, len(values), (RESAMPLES, len(values)))]


def _error(values: np.ndarray) -> np.ndarray:
    """The standard error of an interquartile mean, by the winsorised deviation."""
    n = values.shape[-1]
    cut = int(TRIMMED * n)
    ordered = np.sort(values, axis=-1)
    ends = ordered[..., cut : cut + 1], ordered[..., n - cut - 1 : n - cut]
    return np.clip(ordered, *ends).std(axis=-1, ddof=1) * np.sqrt(n) / (n - 2 * cut)


def print_table(studies: int) -> None:
    """The constants of `mbrl.experiments.coverage`, measured again."""
    for statistic, tasks in COVERAGE:
        for n in range(2, MOST + 1):
            found = simulate(n, tasks, statistic, studies=studies if tasks == 1 else studies // 2)
            told = ", ".join(f"{name}: {share:.3f}" for name, share in found.items())
            print(
                f"{statistic}, {tasks} tasks, {n} runs: {min(found.values()):.3f} to {max(found.values()):.3f} ({told})"
            )


def print_differences(studies: int) -> None:
    """The constants of differences, measured again."""
    for n in range(2, MOST + 1):
        found = simulate_differences(n, studies=studies)
        print(f"difference, {n} runs: {min(found.values()):.3f} to {max(found.values()):.3f}", flush=True)


def print_decisions(studies: int) -> None:
    """How often the best of equal algorithms beats each of the other kind, by numbers of both and runs of each."""
    for kinds in ((1, 1), (2, 1), (2, 3)):
        for n in (4, 5, 10):
            generator = np.random.default_rng(0)
            wrong = sum(_decided(generator.standard_normal((sum(kinds), n)), kinds[0]) for _ in range(studies))
            print(f"{kinds[0]} against {kinds[1]} equal algorithms, {n} runs: {wrong / studies:.3f}", flush=True)


def _decided(returns: np.ndarray, first: int) -> bool:
    best = int(np.argmax(iqm(returns)))
    rivals = returns[first:] if best < first else returns[:first]
    found = [judge([(Sample.of_returns(returns[best]), Sample.of_returns(rival))]) for rival in rivals]
    return all(one.decided and one.better > 0.5 for one in found)


def print_alternatives(studies: int, n: int = MOST) -> None:
    """Coverage of every method on every shape."""
    print(f"{n} runs: " + ", ".join(method.__name__ for method in METHODS))
    for name, draw in SHAPES.items():
        generator, right = np.random.default_rng(0), truth((draw,), "iqm")
        held = np.zeros(len(METHODS))
        for values in draw(generator, (studies, n)):
            ends = [method(values, generator) for method in METHODS]
            held += [low <= right <= high for low, high in ends]
        print(f"{name}: " + " ".join(f"{share:.3f}" for share in held / studies), flush=True)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--studies", type=int, default=2_000, help="simulated for every number (default 2000)")
    parser.add_argument("--alternatives", action="store_true", help="other intervals, instead of the table")
    arguments = parser.parse_args()
    if arguments.alternatives:
        print_alternatives(arguments.studies)
        return
    for printed in (print_table, print_differences, print_decisions):
        printed(arguments.studies)


if __name__ == "__main__":
    main()
