import hashlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raysem.curation.ranking import rank_within
from raysem.curation.selection import (
    PAPER_THRESHOLDS,
    MarginSettings,
    PoolFacts,
    ScoredPairs,
    Selection,
    SelectionSettings,
    keep_captions,
    margin_score,
    nearest_label_similarity,
    relative_acceptance,
    seeded_uniform,
    select_pairs,
    with_domain_thresholds,
)


def make_pairs(num_clips: int = 12, num_captions: int = 9, seed: int = 0) -> ScoredPairs:
    """Every clip with every caption, on a coarse grid of similarities so that there are ties."""
    random = np.random.default_rng(seed)
    clip, caption = (grid.ravel() for grid in np.meshgrid(range(num_clips), range(num_captions), indexing="ij"))
    similarity = (random.integers(50, 100, len(clip)) / 100).astype(np.float32)
    return ScoredPairs(
        np.array([f"clip{i:02d}" for i in clip]),
        np.array([f"cap{i}" for i in caption]),
        similarity,
        rank_within(clip, similarity),
        rank_within(caption, similarity),
    )


def kept(pairs: ScoredPairs, selection: Selection) -> set[tuple[str, str]]:
    return {(str(pairs.clip_id[i]), str(pairs.caption_id[i])) for i in np.flatnonzero(selection.keep_P)}


def rows(pairs: ScoredPairs, index) -> ScoredPairs:
    return ScoredPairs(**{name: column[index] for name, column in vars(pairs).items()})


def facts_for(pairs: ScoredPairs, threshold: float) -> PoolFacts:
    above = pairs.similarity >= np.float32(threshold)
    return PoolFacts(
        kept_captions=frozenset({"cap0", "cap3", "cap4"}),
        caption_counts={name: int((above & (pairs.caption_id == name)).sum()) for name in np.unique(pairs.caption_id)},
        quantile_similarity=0.9,
        clip_neighbour_similarity={name: 0.6 + 0.01 * int(name[4:]) for name in np.unique(pairs.clip_id)},
        caption_neighbour_similarity={name: 0.6 + 0.02 * int(name[3:]) for name in np.unique(pairs.caption_id)},
    )


def test_du_keeps_exactly_the_pairs_at_or_above_the_threshold():
    pairs = ScoredPairs(["a", "b", "c"], ["x", "x", "y"], np.array([0.75, 0.7499999, 0.9], np.float32))
    selection = select_pairs(pairs, SelectionSettings())
    assert selection.keep_P.tolist() == [True, False, True]
    assert selection.rule == "DU: cosine >= 0.75"
    assert selection.threshold == 0.75


def test_a_float32_similarity_equals_the_same_decimal_threshold():
    pairs = ScoredPairs(["a"], ["x"], np.array([0.7], np.float32))
    assert select_pairs(pairs, SelectionSettings(similarity_threshold=0.7)).keep_P.tolist() == [True]


def test_ds_keeps_annotated_pairs_of_captions_near_a_label_and_needs_no_scores():
    pairs = ScoredPairs(["a", "a", "b"], ["x", "y", "x"])
    selection = select_pairs(pairs, SelectionSettings(strategy="DS"), PoolFacts(kept_captions=frozenset({"x"})))
    assert selection.keep_P.tolist() == [True, False, True]
    assert selection.rule == "DS: caption within 0.7 of a label"
    assert selection.threshold == 0.70


def test_ads_is_du_over_the_captions_that_ds_keeps():
    pairs = make_pairs()
    facts = facts_for(pairs, 0.7)
    ads = select_pairs(pairs, SelectionSettings(strategy="ADS", similarity_threshold=0.7), facts)
    du = select_pairs(pairs, SelectionSettings(similarity_threshold=0.7))
    assert kept(pairs, ads) == {pair for pair in kept(pairs, du) if pair[1] in facts.kept_captions}


def test_top_k_per_clip_of_ads_counts_among_the_captions_left():
    similarity = np.array([0.9, 0.8, 0.85, 0.7], np.float32)
    clip, caption = np.array(["a"] * 4), np.array(["hub", "x", "y", "z"])
    pairs = ScoredPairs(clip, caption, similarity, rank_within(np.zeros(4), similarity), np.ones(4, np.int32))
    settings = SelectionSettings(strategy="ADS", similarity_threshold=0.5, top_k_per_clip=2)
    selection = select_pairs(pairs, settings, PoolFacts(kept_captions=frozenset({"x", "y", "z"})))
    assert kept(pairs, selection) == {("a", "y"), ("a", "x")}


def test_top_k_keeps_at_most_k_and_the_best():
    pairs = make_pairs()
    for name, column in (("top_k_per_clip", pairs.clip_id), ("top_k_per_caption", pairs.caption_id)):
        selection = select_pairs(pairs, SelectionSettings(similarity_threshold=-1, **{name: 2}))
        for group in np.unique(column):
            inside = column == group
            assert selection.keep_P[inside].sum() == 2
            assert (
                pairs.similarity[inside & selection.keep_P].min() >= pairs.similarity[inside & ~selection.keep_P].max()
            )


def test_mutual_neighbours_are_near_each_other_in_both_directions():
    pairs = make_pairs()
    selection = select_pairs(pairs, SelectionSettings(similarity_threshold=-1, mutual_neighbours=2))
    for i in range(len(pairs)):
        of_clip = (pairs.clip_id == pairs.clip_id[i]) & (pairs.rank_for_clip <= 2)
        of_caption = (pairs.caption_id == pairs.caption_id[i]) & (pairs.rank_for_caption <= 2)
        assert selection.keep_P[i] == (of_clip[i] and of_caption[i])
    assert 0 < selection.keep_P.sum() <= 2 * 9


def test_a_quantile_raises_the_threshold_and_never_lowers_it():
    pairs = make_pairs()
    settings = SelectionSettings(similarity_threshold=0.7, quantile=0.1)
    high = select_pairs(pairs, settings, PoolFacts(quantile_similarity=0.9))
    assert high.threshold == 0.9
    assert high.rule == "DU: cosine >= 0.9 (top 0.1)"
    assert high.keep_P.tolist() == (pairs.similarity >= np.float32(0.9)).tolist()
    assert select_pairs(pairs, settings, PoolFacts(quantile_similarity=0.2)).threshold == 0.7


@pytest.mark.parametrize(("form", "expected"), [("ratio", 0.8 / 0.5), ("distance", 0.3), ("csls", 0.6)])
def test_margins_have_their_closed_form(form, expected):
    assert margin_score(np.array([0.8]), np.array([0.4]), np.array([0.6]), form) == pytest.approx([expected])


def test_the_margin_rule_looks_its_neighbourhoods_up():
    pairs = make_pairs()
    facts = facts_for(pairs, 0.5)
    settings = SelectionSettings(similarity_threshold=-1, margin=MarginSettings(form="distance", threshold=0.1))
    selection = select_pairs(pairs, settings, facts)
    for i in range(len(pairs)):
        mean = (
            facts.clip_neighbour_similarity[pairs.clip_id[i]] + facts.caption_neighbour_similarity[pairs.caption_id[i]]
        ) / 2
        assert selection.keep_P[i] == (float(pairs.similarity[i]) - mean >= 0.1)


def test_the_cap_keeps_small_captions_whole_and_large_ones_in_proportion():
    num_clips = 4000
    clip = np.array([f"clip{i}" for i in range(num_clips)] + ["clip0", "clip1"])
    caption = np.array(["hub"] * num_clips + ["rare"] * 2)
    pairs = ScoredPairs(clip, caption, np.full(len(clip), 0.9, np.float32))
    facts = PoolFacts(caption_counts={"hub": num_clips, "rare": 2})
    selection = select_pairs(pairs, SelectionSettings(cap_per_caption=400), facts)
    assert selection.keep_P[-2:].tolist() == [True, True]
    assert 320 < selection.keep_P[:-2].sum() < 480  # 400 +- 4 standard deviations
    other = select_pairs(pairs, SelectionSettings(cap_per_caption=400, seed=1), facts)
    assert (selection.keep_P != other.keep_P).any()


ALL_RULES = SelectionSettings(
    strategy="ADS",
    similarity_threshold=0.6,
    quantile=0.5,
    top_k_per_clip=3,
    top_k_per_caption=8,
    cap_per_caption=5,
    mutual_neighbours=8,
    margin=MarginSettings(form="ratio", threshold=1.0),
)


def test_no_rule_depends_on_the_order_or_on_the_other_clips_of_the_shard():
    pairs = make_pairs(num_clips=40)
    facts = facts_for(pairs, 0.6)
    whole = kept(pairs, select_pairs(pairs, ALL_RULES, facts))
    assert whole
    order = np.random.default_rng(0).permutation(len(pairs))
    shuffled = rows(pairs, order)
    assert kept(shuffled, select_pairs(shuffled, ALL_RULES, facts)) == whole
    halves = [rows(pairs, pairs.clip_id < "clip17"), rows(pairs, pairs.clip_id >= "clip17")]
    assert set().union(*(kept(half, select_pairs(half, ALL_RULES, facts)) for half in halves)) == whole


def test_the_rule_names_all_that_was_applied_and_counts_what_each_let_through():
    pairs = make_pairs()
    selection = select_pairs(pairs, ALL_RULES.model_copy(update={"quantile": None}), facts_for(pairs, 0.6))
    assert selection.rule == (
        "ADS: caption within 0.7 of a label and cosine >= 0.6 and top 3 per clip and top 8 per caption and "
        "mutual 8 nearest neighbours and ratio margin >= 1 over 4 neighbours and cap 5 per caption (seed 0)"
    )
    assert next(iter(selection.passed.values())) == int(np.isin(pairs.caption_id, ["cap0", "cap3", "cap4"]).sum())


def test_arrow_columns_are_taken_as_they_are():
    pairs = make_pairs()
    arrow = ScoredPairs(
        pa.chunked_array([pairs.clip_id.tolist()]),
        pa.array(pairs.caption_id.tolist()).dictionary_encode(),
        pairs.similarity,
        pairs.rank_for_clip,
        pairs.rank_for_caption,
    )
    facts = facts_for(pairs, 0.6)
    assert (select_pairs(arrow, ALL_RULES, facts).keep_P == select_pairs(pairs, ALL_RULES, facts).keep_P).all()


def test_no_pairs_select_nothing():
    none = ScoredPairs(np.zeros(0, str), np.zeros(0, str), np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))
    facts = PoolFacts(kept_captions=frozenset(), quantile_similarity=0.5)
    assert select_pairs(none, ALL_RULES, facts).keep_P.tolist() == []
    empty = pa.array([], pa.string())
    assert select_pairs(ScoredPairs(empty, empty, np.zeros(0)), SelectionSettings()).keep_P.tolist() == []


def test_captions_are_kept_by_their_nearest_label():
    labels = np.eye(3, dtype=np.float32)[:2]
    texts = np.array([[0.8, 0.6, 0], [0.6, 0, 0.8], [0, 0, 1]], np.float32)
    np.testing.assert_array_equal(nearest_label_similarity(texts, labels), np.array([0.8, 0.6, 0], np.float32))
    assert keep_captions(texts, labels, 0.6).tolist() == [True, True, False]
    assert nearest_label_similarity(texts, labels, rows_at_once=1).tolist() == pytest.approx([0.8, 0.6, 0.0])


def test_captions_need_labels_of_their_width():
    with pytest.raises(ValueError, match=r"got captions \(3, 4\) and labels \(2, 5\)"):
        keep_captions(np.zeros((3, 4)), np.zeros((2, 5)), 0.5)
    with pytest.raises(ValueError, match="no label"):
        keep_captions(np.zeros((3, 4)), np.zeros((0, 4)), 0.5)


def test_a_caption_must_beat_the_label_text_by_the_margin():
    assert relative_acceptance(np.array([0.7, 0.6]), np.array([0.6, 0.6]), 0.05).tolist() == [True, False]


def test_the_draw_is_uniform_and_fixed_by_seed_and_identifiers():
    clips = np.array([f"clip{i}" for i in range(20000)])
    captions = np.array(["hub"] * 20000)
    draw = seeded_uniform(0, captions, clips)
    assert draw.min() >= 0
    assert draw.max() < 1
    assert np.histogram(draw, bins=10, range=(0, 1))[0] == pytest.approx([2000] * 10, rel=0.1)
    np.testing.assert_array_equal(seeded_uniform(0, captions[::-1], clips[::-1])[::-1], draw)
    assert np.corrcoef(draw, seeded_uniform(1, captions, clips))[0, 1] == pytest.approx(0, abs=0.03)
    assert seeded_uniform(0, ["hub"], ["clip0"])[0] == draw[0] == slow_draw("seed 0", "hub", "clip0")


def slow_draw(*texts: str) -> float:
    """splitmix64 over the texts' hashes in Python's integers: the value is a promise, another would select others."""
    hashes = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts]
    state = hashes[0]
    for value in hashes[1:]:
        state ^= value
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return (state >> 11) / 2**53


def test_domain_thresholds_are_those_released():
    assert set(PAPER_THRESHOLDS) == {"esc50", "urbansound8k", "tut17"}
    ads = with_domain_thresholds(SelectionSettings(strategy="ADS"), "tut17")
    assert (ads.similarity_threshold, ads.caption_threshold) == (0.65, 0.675)
    assert with_domain_thresholds(SelectionSettings(), "esc50").similarity_threshold == 0.75
    with pytest.raises(ValueError, match="no released thresholds for domain 'fsd50k'; there are"):
        with_domain_thresholds(SelectionSettings(), "fsd50k")


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({"strategy": "ADS"}, None, "strategy ADS needs kept_captions"),
        ({"quantile": 0.5}, None, "quantile needs quantile_similarity"),
        ({"cap_per_caption": 5}, None, "caption_counts has no entry for 'cap0' and 8 more"),
        ({"margin": {}}, None, "clip_neighbour_similarity has no entry for 'clip00' and 11 more"),
    ],
)
def test_a_rule_without_its_facts_says_what_is_missing(settings, facts, message):
    with pytest.raises(ValueError, match=message):
        select_pairs(make_pairs(), SelectionSettings(**settings), facts)


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="strategy DU needs similarity"):
        select_pairs(ScoredPairs(["a"], ["x"]), SelectionSettings())
    with pytest.raises(ValueError, match="needs rank_for_clip"):
        select_pairs(ScoredPairs(["a"], ["x"], np.ones(1)), SelectionSettings(top_k_per_clip=1))
    with pytest.raises(ValueError, match="columns of different lengths"):
        ScoredPairs(["a"], ["x", "y"])


def test_annotated_pairs_take_no_rule_on_scores():
    with pytest.raises(ValidationError, match="leave out top_k_per_clip"):
        SelectionSettings(strategy="DS", top_k_per_clip=1)


def test_the_settings_load_without_torch():
    code = "import sys, raysem.curation.selection; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
