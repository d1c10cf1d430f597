"""What was found, in sentences computed from the figures, good and bad alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avion_core.report import formats
from avion_core.report.results import EvaluationResult, Results
from avion_core.report.tables import LABELS, TITLES, measure


@dataclass(frozen=True)
class Finding:
    """One sentence, and whether it says that something did not work as hoped."""

    text: str
    negative: bool = False


@dataclass(frozen=True)
class Tile:
    """One large figure with what it is to be compared with."""

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
        beside = [
            f"untrained {formats.percent(other.figures[key])}"
            for other in results.named(name)
            if other.untrained and key in other.figures
        ]
        if key in top.chance:
            beside.append(f"chance {formats.percent(top.chance[key])}")
        label = f"{_short_title(top)}, {LABELS[key]}"
        made.append(Tile(label, formats.share(top.figures[key]), ", ".join(beside)))
    return made


def findings(results: Results) -> list[Finding]:
    """Every comparison that the runs allow: of the recipes first, then with chance."""
    made = [*_language_model(results), *_fine_tuning(results), *_videomae(results)]
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
    title = TITLES[measure(result)].removesuffix(" (multiple choice)")
    return title.replace(" multi-instance", "")


def _against_guessing(top: EvaluationResult, everyone: Sequence[EvaluationResult]) -> Finding:
    """The best run beside the untrained model and chance, figure by figure."""
    untrained = next((result for result in everyone if result.untrained), None)
    words, weak = [], []
    for key in _spoken(top):
        value, chance = top.figures[key], top.chance[key]
        beside = f"{formats.times(value, chance)} chance ({formats.percent(chance)})"
        reference = chance
        if untrained is not None and key in untrained.figures:
            base = untrained.figures[key]
            beside = (
                f"{formats.times(value, base)} the untrained model ({formats.percent(base)}) and {beside}"
            )
            reference = max(base, chance)
        words.append(f"{LABELS[key]} {formats.share(value)}, {beside}")
        if value <= reference:
            weak.append(LABELS[key])
    text = f"{_short_title(top)}, best with “{top.run_title}”: {'; '.join(words)}."
    if weak:
        than = "guessing" if untrained is None else "an untrained model or guessing"
        text += f" {_listed(weak)} {'is' if len(weak) == 1 else 'are'} no better than {than}."
    return Finding(text, negative=bool(weak))


def _spoken(result: EvaluationResult) -> list[str]:
    """Figures worth a sentence: of retrieval only the headline, which sums up the others."""
    keys = [result.headline] if result.planned.kind == "retrieval" else list(LABELS)
    return [key for key in keys if key in result.figures and key in result.chance]


def _language_model(results: Results) -> list[Finding]:
    """Does text by a language model beat human narrations alone?"""
    made = []
    for name in results.evaluation_names:
        trained = [result for result in _trained(results.named(name)) if result.texts_trained]
        pair = _two_sides(trained, lambda result: result.uses_language_model)
        if pair is None:
            continue
        with_text, without = pair
        key = with_text.headline
        ours, theirs = with_text.figures[key], without.figures[key]
        figures = f"{LABELS[key]} {formats.percent(ours)} against {formats.share(theirs)}"
        what = _short_title(with_text)
        ending = f"human narrations alone: {figures}, {_points(ours - theirs)}."
        if ours > theirs:
            made.append(Finding(f"{what}: adding LLM text beats {ending}"))
        else:
            made.append(Finding(f"{what}: adding LLM text does not beat {ending}", negative=True))
    return made


def _fine_tuning(results: Results) -> list[Finding]:
    """How much of the gap that a run's zero-shot retrieval leaves does fine-tuning close?"""
    made = []
    retrieval = [result for result in _trained(results.evaluations) if result.planned.kind == "retrieval"]
    for tuned in retrieval:
        before = [
            other
            for other in retrieval
            if other.run == tuned.run
            and other.planned.dataset == tuned.planned.dataset
            and not other.fine_tuned
        ]
        if not tuned.fine_tuned or not before:
            continue
        start, end = before[0].figures["mAP.mean"], tuned.figures["mAP.mean"]
        closed = 100 * (end - start) / (100 - start) if start < 100 else 0.0
        if end > start:
            text = (
                f"Fine-tuning “{tuned.run_title}” for retrieval lifts mAP from {formats.percent(start)} to "
                f"{formats.share(end)}, which closes {formats.share(closed)} of the gap to 100."
            )
        else:
            text = (
                f"Fine-tuning “{tuned.run_title}” for retrieval does not help: mAP "
                f"{formats.percent(end)} against {formats.share(start)} before."
            )
        made.append(Finding(text, negative=end <= start))
    return made


def _videomae(results: Results) -> list[Finding]:
    """Does masked pretraining beat training from scratch?"""
    made = []
    for name in results.evaluation_names:
        trained = [
            result
            for result in _trained(results.named(name))
            if result.planned.kind == "recognition"
            and not any(stage.task in ("contrastive", "relevancy") for stage in result.lineage)
        ]
        pair = _two_sides(
            trained, lambda result: any(stage.task == "reconstruction" for stage in result.lineage)
        )
        if pair is None:
            continue
        pretrained, scratch = pair
        key = pretrained.headline
        ours, theirs = pretrained.figures[key], scratch.figures[key]
        figures = f"{LABELS[key]} {formats.percent(ours)} against {formats.share(theirs)}"
        figures += _in_clips(pretrained, ours - theirs)
        if ours > theirs:
            made.append(Finding(f"VideoMAE pretraining beats training from scratch: {figures}."))
        else:
            text = f"VideoMAE pretraining does not beat training from scratch: {figures}."
            made.append(Finding(text, negative=True))
    return made


def _two_sides(
    results: Sequence[EvaluationResult], belongs: Callable[[EvaluationResult], bool]
) -> tuple[EvaluationResult, EvaluationResult] | None:
    """The best result with and the best without a property, if there are both."""
    inside = [result for result in results if belongs(result)]
    outside = [result for result in results if not belongs(result)]
    return (best(inside), best(outside)) if inside and outside else None


def _points(difference: float) -> str:
    return f"{difference:+.1f} points".replace("-", "−")


def _in_clips(result: EvaluationResult, difference: float) -> str:
    """What a difference of accuracies amounts to, so that a handful of clips is not taken for progress."""
    clips = result.metrics.get("clips")
    if not isinstance(clips, int):
        return f", {_points(difference)}"
    right = formats.count(abs(round(difference * clips / 100)), "clip")
    return f", {_points(difference)} or {right} of {clips:,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
