import pytest
import torch

from gptlab.decoding.logits_processors import STEPS, LogitsProcessors
from gptlab.errors import UserError

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0, 3.0]])


def after(processors: LogitsProcessors, prompt: list[int], text: list[int]) -> list[float]:
    return processors(LOGITS, [prompt], [text])[0].tolist()


def test_nothing_by_default() -> None:
    assert torch.equal(LogitsProcessors()(LOGITS, [[1]], [[2, 2]]), LOGITS) and LogitsProcessors().active == []


def test_repetition_divides_what_is_likely_and_multiplies_what_is_not() -> None:
    assert after(LogitsProcessors(repetition=2.0), [0], [1, 1]) == [1.0, -2.0, 0.5, 0.0, 3.0]


def test_presence_counts_a_token_once_frequency_each_time_and_both_the_new_text_only() -> None:
    assert after(LogitsProcessors(presence=0.5), [0], [2, 2, 4]) == [2.0, -1.0, 0.0, 0.0, 2.5]
    assert after(LogitsProcessors(frequency=0.5), [0], [2, 2, 4]) == [2.0, -1.0, -0.5, 0.0, 2.5]


def test_banned_tokens_cannot_come() -> None:
    assert after(LogitsProcessors(banned=[4, 0]), [], []) == [-torch.inf, -1.0, 0.5, 0.0, -torch.inf]


@pytest.mark.parametrize(
    ("n", "ids", "forbidden"),
    [
        (1, [3, 1], {1, 3}),
        (2, [1, 2, 0, 1], {2}),
        (2, [1, 2, 1, 3, 1], {2, 3}),
        (3, [1, 2, 4, 0, 1, 2], {4}),
        (3, [1, 2], set()),
        (2, [0, 0], {0}),
    ],
)
def test_no_ngram_comes_twice(n: int, ids: list[int], forbidden: set[int]) -> None:
    """However the ids are shared between prompt and text."""
    for cut in range(len(ids) + 1):
        logits = after(LogitsProcessors(no_repeat_ngram=n), ids[:cut], ids[cut:])
        assert {i for i, logit in enumerate(logits) if logit == -torch.inf} == forbidden


def test_the_order_decides() -> None:
    first = LogitsProcessors(repetition=2.0, presence=1.0)
    assert first.active == ["repetition", "presence"]
    last = LogitsProcessors(order=[*reversed(STEPS)], repetition=2.0, presence=1.0)
    assert last.active == ["presence", "repetition"]
    assert after(first, [], [0]) == [0.0, -1.0, 0.5, 0.0, 3.0]  # 2 / 2 - 1
    assert after(last, [], [0]) == [0.5, -1.0, 0.5, 0.0, 3.0]  # (2 - 1) / 2


def test_rows_have_their_own_past_and_the_logits_are_left_alone() -> None:
    logits = LOGITS.repeat(2, 1)
    changed = LogitsProcessors(presence=1.0)(logits, [[], []], [[0], [4]])
    assert changed.tolist() == [[1.0, -1.0, 0.5, 0.0, 3.0], [2.0, -1.0, 0.5, 0.0, 2.0]]
    assert torch.equal(logits, LOGITS.repeat(2, 1))


@pytest.mark.parametrize("wrong", [{"order": ["banned"]}, {"repetition": 0.0}, {"no_repeat_ngram": -1}])
def test_impossible_settings_say_so(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(wrong))}=.+: .+; .+"):
        LogitsProcessors(**wrong)  # type: ignore[arg-type]
