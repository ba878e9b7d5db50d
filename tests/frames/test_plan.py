"""The shard plan is a pure function that keeps every utterance whole and every shard small."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import UserError
from asr_kd.frames.plan import packed, plan_hash, plan_shards

COUNTS = st.dictionaries(st.text("abcé", min_size=1, max_size=6), st.integers(1, 300), min_size=1, max_size=40)


@given(COUNTS, st.integers(1, 500), st.randoms())
def test_plan_holds_each_utterance_once_sorted_within_the_shard_size(counts, size, random):  # type: ignore[no-untyped-def]
    plan = plan_shards(counts, size)
    assert [u for shard in plan for u in shard.utterances] == sorted(counts)
    assert all(counts[u] == n for shard in plan for u, n in zip(shard.utterances, shard.frame_counts, strict=True))
    assert all(shard.frames <= size or len(shard.utterances) == 1 for shard in plan)
    for shard, after in itertools.pairwise(plan):
        assert shard.frames + after.frame_counts[0] > size, "the next utterance would have had room"
    items = list(counts.items())
    random.shuffle(items)
    assert plan_shards(dict(items), size) == plan


def test_plan_hash_changes_with_names_counts_and_shard_size() -> None:
    counts = {"a": 10, "b": 20, "c": 30}
    others = [{"a": 11, "b": 20, "c": 30}, {"a": 10, "b": 20, "d": 30}, {"a": 10, "b": 20}]
    hashes = {plan_hash(plan_shards(c, 40)) for c in (counts, *others)} | {plan_hash(plan_shards(counts, 20))}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("counts", "size", "message"), [({}, 9, "no utterances"), ({"a": 0}, 9, "a: 0"), ({"a": 1}, 0, "at least")]
)
def test_plan_refuses_what_cannot_be_stored(counts: dict[str, int], size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_shards(counts, size)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 300), max_size=40), st.integers(1, 500))
def test_utterances_that_are_packed_keep_their_order_and_the_limit(counts, most):  # type: ignore[no-untyped-def]
    groups = list(packed(counts, counts, most))
    assert [utterance for group in groups for utterance in group] == [name for name, frames in counts.items() if frames]
    sizes = [sum(counts[utterance] for utterance in group) for group in groups]
    assert all(size <= most or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert all(size + counts[after[0]] > most for size, after in zip(sizes, groups[1:], strict=False))
