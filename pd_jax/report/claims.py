"""The verdict on each of a study's claims, holds, fails or undecided, with the figures behind it.

A claim is a weighted sum of scores with fixed weights, taken seed by seed and then averaged over
the places that it covers. It is judged twice. Over seeds: would other seeds have given the same
sign, on these very examples? Over examples: would other examples, for these very seeds? It is
decided only if both intervals agree.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pd_jax import config as config_lib
from pd_jax.report import notation
from pd_jax.report.resampling import Counts, Values, interval_over_resamples
from pd_jax.report.statistics import (
    Interval,
    Summary,
    Verdict,
    both,
    interval_over_examples,
    judge_near_zero,
    judge_positive,
    sign_test,
    summarise,
)
from pd_jax.report.study import (
    Result,
    Results,
    measure_name,
    score_over_resamples,
    scores_by_example,
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One contrast of a claim: where it was taken, and its value by seed."""

    at: str
    seeds: Summary


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A claim by one measure, in that measure's unit; values above 0 support it.

    `seeds` is the mean over the claim's places, by seed; `examples` its interval over examples, or
    None where predictions are missing. `ahead` of `signs` contrasts (places times seeds) that are
    not 0 are above it. `chance` is the sign test's probability that as many seeds, or more, agree;
    places of one seed share their models, and count once. A claim that two are close has none.
    """

    measure: str
    verdict: Verdict
    seeds: Summary
    examples: Interval | None
    parts: tuple[Part, ...]
    ahead: int
    signs: int
    chance: float | None


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim, judged by every applicable measure; the first one decides."""

    claim: config_lib.Claim
    judgements: tuple[Judgement, ...]

    @property
    def verdict(self) -> Verdict:
        """The answer by the study's first measure."""
        return self.judgements[0].verdict


def judge(results: Results) -> tuple[Judged, ...]:
    """Returns the answer to every claim of a study."""
    return tuple(_judged(results, claim) for claim in results.study.claims)


def _judged(results: Results, claim: config_lib.Claim) -> Judged:
    # A margin is given in the first measure's unit.
    measures = results.study.measures[: 1 if claim.near is not None else None]
    return Judged(claim, tuple(_judgement(results, claim, measure) for measure in measures))


def _judgement(results: Results, claim: config_lib.Claim, measure: config_lib.Measure) -> Judgement:
    name = measure_name(measure)
    sign = -1.0 if notation.lower_is_better(name) else 1.0
    by_place = [_by_seed(results, contrast, name, sign) for contrast in claim.contrasts]
    parts = tuple(
        Part(contrast.at, summarise(values))
        for contrast, values in zip(claim.contrasts, by_place, strict=True)
    )
    seeds = summarise(_means(by_place))
    examples = _over_examples(results, claim, measure, sign, tuple(seeds.used))
    over_seeds, over_examples = (
        judge_near_zero(found, margin=claim.near)
        if claim.near is not None
        else judge_positive(found)
        for found in (seeds.interval, examples)
    )
    every = [value for part in parts for value in part.seeds.used.values()]
    return Judgement(
        measure=name,
        verdict=both(over_seeds, over_examples),
        seeds=seeds,
        examples=examples,
        parts=parts,
        ahead=sum(value > 0 for value in every),
        signs=sum(value != 0 for value in every),
        chance=sign_test(seeds) if claim.near is None else None,
    )


def _by_seed(
    results: Results, contrast: config_lib.Contrast, measure: str, sign: float
) -> dict[str, float | None]:
    """Returns a contrast by seed; None where one of its cells has no value or lacks the seed."""
    groups = [results.at(term.axes) for term in contrast.terms]
    values = [
        {result.seed: result.values[measure] for result in group.results} if group else {}
        for group in groups
    ]
    seeds = dict.fromkeys(seed for found in values for seed in found)
    return {seed: _sum(contrast, [found.get(seed) for found in values], sign) for seed in seeds}


def _sum(
    contrast: config_lib.Contrast, values: Sequence[float | None], sign: float
) -> float | None:
    total = 0.0
    for term, value in zip(contrast.terms, values, strict=True):
        if value is None:
            return None
        total += sign * term.weight * value
    return total


def _means(by_place: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Returns the mean over places by seed; a seed that lacks a place has none."""
    seeds = dict.fromkeys(seed for values in by_place for seed in values)
    found: dict[str, float | None] = {}
    for seed in seeds:
        values = [place.get(seed) for place in by_place]
        known = [value for value in values if value is not None]
        found[seed] = sum(known) / len(known) if len(known) == len(values) else None
    return found


def _over_examples(
    results: Results,
    claim: config_lib.Claim,
    measure: config_lib.Measure,
    sign: float,
    seeds: Sequence[str],
) -> Interval | None:
    """Returns the interval over examples of the claim's mean over places and these seeds."""
    shares = list(_shares(results, claim, sign, seeds))
    if not measure.is_mean:
        return _over_resamples(results, measure, shares)
    total: np.ndarray | None = None
    for share, result in shares:
        scores = scores_by_example(results, result, measure)
        if not len(scores) or (total is not None and len(total) != len(scores)):
            return None
        total = share * scores + (0.0 if total is None else total)
    # Sums of the same numbers in a different order count as the same number.
    return None if total is None else interval_over_examples(np.round(total, 12), seed=0)


def _shares(
    results: Results, claim: config_lib.Claim, sign: float, seeds: Sequence[str]
) -> Iterator[tuple[float, Result]]:
    """Yields the results that make up a claim's mean over places and seeds, with their weights."""
    for contrast in claim.contrasts:
        for term in contrast.terms:
            group = results.at(term.axes)
            for result in group.results if group else ():
                if result.seed in seeds:
                    yield sign * term.weight / len(claim.contrasts) / len(seeds), result


def _over_resamples(
    results: Results, measure: config_lib.Measure, shares: Sequence[tuple[float, Result]]
) -> Interval | None:
    """Returns the interval of a weighted sum of scores that are not means over rows.

    All of them are computed again on every resample of the rows that they share.
    """
    found = [score_over_resamples(results, result, measure) for _, result in shares]
    scores = [one for one in found if one is not None]
    rows = {count for _, count in scores}
    if len(scores) < len(found) or len(rows) != 1:
        return None

    def total(counts: Counts) -> Values:
        return sum(
            (share * score(counts) for (share, _), (score, _) in zip(shares, scores, strict=True)),
            np.zeros(len(counts)),
        )

    return interval_over_resamples(total, rows=rows.pop(), seed=0)
