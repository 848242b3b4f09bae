"""The score of a listening test as lines of text for people."""

from __future__ import annotations

from raysem.listening.scoring import StudyScore, Tally


def describe(score: StudyScore) -> str:
    """A table of the raters, all of them together, each clip once, and where they part."""
    width = max(12, *(len(rater.rater) for rater in score.raters))
    head = f"{'':{width}}  answered  first  second  same  first wins              p       left      s/clip"
    lines = [
        f"study {score.study}, {score.num_clips} clips",
        f"first:  {score.first}",
        f"second: {score.second}",
        "",
        head,
    ]
    for rater in score.raters:
        chosen = rater.tally.first + rater.tally.second
        left = f"{rater.left} of {chosen}"
        pace = "-" if rater.median_seconds is None else f"{rater.median_seconds:.1f}"
        lines.append(
            _row(rater.rater, f"{rater.answered} of {score.num_clips}", rater.tally, width) + f"{left:10}{pace}"
        )
    num_answers = sum(rater.answered for rater in score.raters)
    lines.append(_row("all answers", str(num_answers), score.together, width))
    num_judged = score.by_clip.first + score.by_clip.second + score.by_clip.same
    lines.append(_row("each clip", str(num_judged), score.by_clip, width))
    lines += ["", *_notes(score)]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, answered: str, tally: Tally, width: int) -> str:
    rate = "-"
    if tally.rate is not None:
        rate = f"{100 * tally.rate.estimate:.1f} % [{100 * tally.rate.low:.1f}, {100 * tally.rate.high:.1f}]"
    p_value = "" if tally.p_value is None else f"{tally.p_value:.2g}"
    return f"{name:{width}}  {answered:>8}  {tally.first:5}  {tally.second:6}  {tally.same:4}  {rate:22}  {p_value:8}"


def _notes(score: StudyScore) -> list[str]:
    notes = [
        "first wins: its share of the answers that prefer either; 95 % interval, exact for a rater and for each clip,",
        "            over drawn clips for all answers. p: exact binomial test, two-sided, without the ties.",
        "each clip:  one vote a clip, for the model that more raters chose; as many for either is a tie.",
        "left:       how many of the preferred lists stood on the left.",
        _agreement(score),
    ]
    open_answers = sum(score.num_clips - rater.answered for rater in score.raters)
    if open_answers:
        unfinished = sum(rater.answered < score.num_clips for rater in score.raters)
        notes.append(f"unfinished: {unfinished} of {len(score.raters)} raters; answers missing: {open_answers}.")
    if score.disputed:
        notes += ["", "raters part most on (first, second, same):"]
        notes += [f"  {clip.clip_id}  ({clip.first}, {clip.second}, {clip.same})" for clip in score.disputed]
    return notes


def _agreement(score: StudyScore) -> str:
    if score.alpha is not None:
        shared = f"{score.num_shared_clips} clips that two raters or more answered"
        return f"agreement:  Krippendorff's alpha (nominal) {score.alpha:.3f} over {shared}; 1 is full, 0 chance."
    reason = "all their answers are alike" if score.num_shared_clips else "no clip has the answers of two raters"
    return f"agreement:  Krippendorff's alpha is not defined: {reason}."
