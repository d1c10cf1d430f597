"""Findings, good and bad, as sentences computed from the figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from avion_core.config import PROVIDERS
from avion_core.report import formats
from avion_core.report.compare import Gap, beats_chance, gap
from avion_core.report.results import EvaluationResult, Results, text_by
from avion_core.report.tables import title, uncertainty


@dataclass(frozen=True)
class Finding:
    """One sentence, with a warning tag if something did not work as hoped."""

    text: str
    tag: str = ""


NEGATIVE = "not as hoped"
UNCLEAR = "no clear difference"


@dataclass(frozen=True)
class Tile:
    """One large figure and its points of comparison."""

    label: str
    value: str
    detail: str


def tiles(results: Results) -> list[Tile]:
    """The best figure of each evaluation, beside the untrained model's and chance."""
    made = []
    for name in results.evaluation_names:
        trained = _trained(results.named(name))
        if not trained:
            continue
        top = best(trained)
        key = top.headline
        beside = list(filter(None, [uncertainty(top, key)]))
        beside += [
            f"untrained {formats.percent(other.figures[key])}"
            for other in results.named(name)
            if other.untrained and key in other.figures
        ]
        if key in top.chance:
            beside.append(f"chance {formats.percent(top.chance[key])}")
        label = f"{_short_title(top)}, {top.kind.columns[key]}"
        made.append(Tile(label, formats.figure(top.figures[key], top.kind.top(key)), ", ".join(beside)))
    return made


def findings(results: Results) -> list[Finding]:
    """Every comparison that the runs allow: between recipes, then with chance."""
    made = [*_rephrasing(results), *_fine_tuning(results), *_videomae(results)]
    for name in results.evaluation_names:
        trained = _trained(results.named(name))
        if trained:
            made.append(_against_guessing(best(trained), results.named(name)))
    return made


def best(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """The result with the highest headline figure; the first of equals."""
    return max(results, key=lambda result: result.figures[results[0].headline])


def _trained(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    return [result for result in results if not result.untrained]


def _short_title(result: EvaluationResult) -> str:
    return title(result).partition(" (")[0].replace(" multi-instance", "")


def _against_guessing(top: EvaluationResult, everyone: Sequence[EvaluationResult]) -> Finding:
    """The best run beside the untrained model and chance, figure by figure."""
    untrained = next((result for result in everyone if result.untrained), None)
    words: list[str] = []
    labels = top.kind.columns
    not_above: dict[str, list[str]] = {"an untrained model": [], "guessing": []}
    for key in _spoken(top):
        value, chance = top.figures[key], top.chance[key]
        beside = formats.times(value, chance, "chance")
        if untrained is not None and key in untrained.figures:
            base = untrained.figures[key]
            beside = f"{formats.times(value, base, 'the untrained model')} and {beside}"
            if not gap(top, untrained, key).above:
                not_above["an untrained model"].append(labels[key])
        if not beats_chance(top, key):
            not_above["guessing"].append(labels[key])
        said = formats.figure(value, top.kind.top(key))
        words.append(f"{labels[key]} {said}{_within(top, key)}, {beside}")
    text = f"{_short_title(top)}, best with “{top.run_title}”: {'; '.join(words)}."
    for other, figures in not_above.items():
        if figures:
            text += f" {formats.listed(figures)}: not clearly better than {other}."
    return Finding(text, NEGATIVE if any(not_above.values()) else "")


def _within(result: EvaluationResult, key: str) -> str:
    found = uncertainty(result, key)
    return f" ({found})" if found else ""


def _spoken(result: EvaluationResult) -> list[str]:
    """Figures to mention: only the headline if it is the mean of the others."""
    keys = [result.headline] if result.kind.headline_is_mean else list(result.kind.columns)
    return [key for key in keys if key in result.figures and key in result.chance]


def _rephrasing(results: Results) -> list[Finding]:
    """Do rephrased or narrated texts beat human ones alone? Compares the two runs most alike."""
    made = []
    for name in results.evaluation_names:
        trained = [result for result in _trained(results.named(name)) if result.texts_trained]
        sides = _sides(trained, lambda result: bool(result.added_texts))
        pair = min(itertools.product(*sides), key=lambda pair: len(_unlike(*pair)), default=None)
        if pair is None or pair[0].imported != pair[1].imported:
            continue
        by = text_by(pair[0].added_texts, pair[0].providers, _called)
        text = f"text {' and '.join(by.values())}"
        finding = _compared(*pair, f"{_short_title(pair[0])}: adding {text}", "human narrations alone")
        unlike = _unlike(*pair)
        caveat = f" These two runs also differ in {formats.listed(unlike)}." if unlike else ""
        made.append(replace(finding, text=finding.text + caveat))
    return made


def _unlike(ours: EvaluationResult, theirs: EvaluationResult) -> list[str]:
    """Settings other than the narrations in which stages of the same name differ."""
    found = set()
    recipes = {stage.name: stage.settings.recipe() for stage in theirs.stages}
    for stage in ours.stages:
        own = stage.settings.recipe()
        other = recipes.get(stage.name, own)
        found |= {name for name in own.keys() | other.keys() if own.get(name) != other.get(name)}
    return sorted(found - {"narrations"})


def _called(provider: str) -> str:
    """What a provider is called in a sentence; also one of a plug-in that is not loaded."""
    return (PROVIDERS[provider].called if provider in PROVIDERS else "") or provider


def _fine_tuning(results: Results) -> list[Finding]:
    """How much of the zero-shot figure's gap to 100 does fine-tuning close?"""
    made = []
    trained = [result for result in _trained(results.evaluations) if "zero_shot" in result.kind.titles]
    for tuned in trained:
        before = [
            other
            for other in trained
            if (other.run, other.planned.kind) == (tuned.run, tuned.planned.kind)
            and other.planned.dataset == tuned.planned.dataset
            and not other.fine_tuned
        ]
        if not tuned.fine_tuned or not before:
            continue
        key = tuned.headline
        label, start, end = tuned.kind.columns[key], before[0].figures[key], tuned.figures[key]
        difference = gap(tuned, before[0], key)
        closed = 100 * (end - start) / (100 - start) if start < 100 else 0.0
        subject = f"Fine-tuning “{tuned.run_title}” for {tuned.planned.kind.replace('_', ' ')}"
        if difference.above:
            text = (
                f"{subject} lifts {label} from {formats.percent(start)} to {formats.share(end)}, "
                f"{difference}, which closes {formats.share(closed)} of the gap to 100."
            )
        else:
            helps = "makes no clear difference" if difference.clear is False else "does not help"
            figures = f"{label} {formats.percent(end)} against {formats.share(start)} before"
            text = f"{subject} {helps}: {figures}, {difference}."
        made.append(Finding(text, _tag(difference)))
    return made


def _videomae(results: Results) -> list[Finding]:
    """Does masked pretraining beat training from scratch?"""
    made = []
    for name in results.evaluation_names:
        trained = [
            result
            for result in _trained(results.named(name))
            if result.kind.needs == "classes"
            and not result.imported
            and not any(stage.compares_texts for stage in result.lineage)
        ]
        pair = _two_sides(trained, lambda result: any(stage.trains == "pixels" for stage in result.lineage))
        if pair is not None:
            made.append(_compared(*pair, "VideoMAE pretraining", "training from scratch"))
    return made


def _compared(ours: EvaluationResult, theirs: EvaluationResult, subject: str, other: str) -> Finding:
    """`<subject> beats <other>: top-1 41.7 against 35.0 %, +6.7 points (…).`, or another verb."""
    key = ours.headline
    label, counted = ours.kind.columns[key], ours.kind.counted
    difference = gap(ours, theirs, key)
    against = formats.figure(theirs.figures[key], ours.kind.top(key))
    figures = f"{label} {formats.percent(ours.figures[key])} against {against}"
    if counted and key in ours.counts:
        figures += f" of {formats.count(ours.counts[key], counted)}"
    return Finding(f"{subject} {difference.word} {other}: {figures}, {difference}.", _tag(difference))


def _tag(difference: Gap) -> str:
    if difference.above:
        return ""
    return UNCLEAR if difference.clear is False else NEGATIVE


def _two_sides(
    results: Sequence[EvaluationResult], belongs: Callable[[EvaluationResult], bool]
) -> tuple[EvaluationResult, EvaluationResult] | None:
    """The best result with and the best without a property, if there are both."""
    return next(itertools.product(*_sides(results, belongs)), None)


def _sides(
    results: Sequence[EvaluationResult], belongs: Callable[[EvaluationResult], bool]
) -> tuple[list[EvaluationResult], list[EvaluationResult]]:
    """Results with and without a property, each side from best to worst."""
    ranked = sorted(results, key=lambda result: result.figures[results[0].headline], reverse=True)
    return [result for result in ranked if belongs(result)], [
        result for result in ranked if not belongs(result)
    ]
