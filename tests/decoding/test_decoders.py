import math
from fractions import Fraction

import pytest
import torch

from gptlab.decoding.decoders import Beam, Greedy, MinP, Sample, TopK, TopP, Typical
from gptlab.errors import UserError
from gptlab.registry import options

# Raschka's nine words: closer every effort forward inches moves pizza toward you (sec. 5.3)
BOOK = torch.tensor([[4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]])
ALL = [Greedy(), Sample(0.7), TopK(k=3), TopP(p=0.8), MinP(min_p=0.1), Typical(mass=0.8)]


def exact_top_p(probs: list[Fraction], p: Fraction) -> list[Fraction]:
    """Return the smallest set of most probable tokens whose mass is at least p, renormalized, in rational numbers."""
    kept: list[int] = []
    for i in sorted(range(len(probs)), key=lambda i: (-probs[i], i)):
        if sum(probs[j] for j in kept) >= p:
            break
        kept.append(i)
    mass = sum(probs[j] for j in kept)
    return [probs[i] / mass if i in kept else Fraction(0) for i in range(len(probs))]


@pytest.mark.parametrize("decoder", ALL)
def test_rows_are_distributions_and_independent(decoder: Sample) -> None:
    logits = torch.randn(4, 50)
    probs = decoder(logits)
    assert probs.shape == (4, 50)
    assert torch.allclose(probs.sum(-1), torch.ones(4))
    assert torch.equal(decoder(logits[2:3]), probs[2:3])


@pytest.mark.parametrize("decoder", ALL)
def test_the_logits_are_left_alone(decoder: Sample) -> None:
    logits = torch.randn(2, 9)
    kept = logits.clone()
    decoder(logits)
    assert torch.equal(logits, kept)


def test_greedy_takes_the_first_of_equals() -> None:
    assert Greedy()(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [[0, 1, 0]]
    many = torch.randint(9, (4, 60_000)).float()  # more than one thread or vector looks at
    assert Greedy()(many).argmax(-1).tolist() == many.numpy().argmax(1).tolist()


def test_temperature_one_is_softmax() -> None:
    assert torch.allclose(Sample()(BOOK), BOOK.softmax(-1))


def test_the_book_s_temperatures() -> None:
    assert Sample(temperature=0.1)(BOOK)[0, 3].item() == pytest.approx(0.991, abs=1e-3)
    assert Sample(temperature=5)(BOOK)[0, 6].item() == pytest.approx(0.0430, abs=1e-4)


def test_the_book_s_top_3() -> None:
    probs = TopK(k=3)(BOOK)[0]
    assert probs[[0, 3, 7]].tolist() == pytest.approx([0.0615, 0.5775, 0.3610], abs=1e-4)
    assert probs.count_nonzero() == 3


@pytest.mark.parametrize("make", [Sample, TopK, TopP, MinP])
def test_temperature_zero_is_greedy_and_small_ones_tend_to_it(make: type[Sample]) -> None:
    assert torch.equal(make(temperature=0)(BOOK), Greedy()(BOOK))
    assert torch.allclose(make(temperature=1e-3)(BOOK), Greedy()(BOOK))
    assert torch.equal(make(temperature=1e-30)(BOOK), Greedy()(BOOK))


def test_high_temperature_flattens() -> None:
    def entropy(probs: torch.Tensor) -> float:
        return -(probs * probs.log()).sum().item()

    assert entropy(Sample(0.5)(BOOK)) < entropy(Sample(1)(BOOK)) < entropy(Sample(2)(BOOK))
    assert torch.allclose(Sample(1e6)(BOOK), torch.full((1, 9), 1 / 9), atol=1e-5)


def test_top_1_is_greedy() -> None:
    logits = torch.randn(20, 30)
    assert torch.equal(TopK(k=1)(logits), Greedy()(logits))


def test_top_k_keeps_exactly_k_under_ties_by_id() -> None:
    assert TopK(k=2)(torch.tensor([[1.0, 1.0, 1.0, 0.0]])).tolist() == [[0.5, 0.5, 0, 0]]
    assert TopK(k=9)(torch.tensor([[1.0, 1.0]])).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("weights", "p"),
    [
        ((4, 2, 1, 1), "3/4"),  # the mass of two is exactly p
        ((1, 1, 4, 2), "3/4"),
        ((4, 2, 1, 1), "1/4"),  # one token is above p already
        ((4, 2, 1, 1), "13/16"),
        ((1, 1, 1, 1), "1/2"),  # ties go by id
        ((8, 4, 2, 1, 1), "1"),
    ],
)
def test_top_p_against_exact_fractions(weights: tuple[int, ...], p: str) -> None:
    exact = [Fraction(w, sum(weights)) for w in weights]
    logits = torch.tensor([[float(w) for w in exact]], dtype=torch.float64).log()
    expected = exact_top_p(exact, Fraction(p))
    assert TopP(p=float(Fraction(p)))(logits)[0].tolist() == pytest.approx([float(f) for f in expected])


def test_sampled_frequencies_follow_the_distribution() -> None:
    torch.manual_seed(123)
    draws = [int(torch.multinomial(Sample()(BOOK)[0], 1)) for _ in range(1000)]
    counts = torch.bincount(torch.tensor(draws), minlength=9)
    assert counts.tolist() == [73, 0, 0, 582, 2, 0, 0, 343, 0]  # the book's


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(TopK, "k", 0), (Sample, "temperature", -1.0), (Sample, "temperature", math.inf), (TopP, "p", 1.5), (TopP, "p", 0)]
    + [(MinP, "min_p", -0.1), (MinP, "min_p", 1.1), (Typical, "mass", 0), (Typical, "mass", 2), (Beam, "beams", 0)],
)
def test_impossible_settings_say_so(kind: type, key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{key}={value}: .+; .+"):
        kind(**{key: value})


@pytest.mark.parametrize(
    ("weights", "min_p", "kept"),
    [((8, 4, 2, 2), 0.5, 2), ((8, 4, 2, 2), 0.51, 1), ((8, 4, 2, 2), 0.25, 4), ((4, 4, 1, 1), 1.0, 2), ((8, 1), 0, 2)],
)
def test_min_p_keeps_what_is_near_the_best(weights: tuple[int, ...], min_p: float, kept: int) -> None:
    logits = torch.tensor([weights], dtype=torch.float64).log()
    probs = MinP(min_p=min_p)(logits)[0]
    expected = [Fraction(w, sum(weights[:kept])) if i < kept else Fraction(0) for i, w in enumerate(weights)]
    assert probs.tolist() == pytest.approx([float(f) for f in expected])


def test_typical_against_the_paper_s_definition_in_float64() -> None:
    """The tokens by the distance of their surprise to the entropy, the nearest first, until their mass reaches tau."""
    for seed in range(20):
        logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(seed)) * 2
        p = logits.double().softmax(-1)[0].tolist()
        entropy = -sum(x * math.log(x) for x in p)
        kept: list[int] = []
        for i in sorted(range(40), key=lambda i: abs(-math.log(p[i]) - entropy)):
            kept.append(i)
            if sum(p[j] for j in kept) >= 0.6:
                break
        probs = Typical(mass=0.6)(logits)[0]
        assert set(probs.nonzero()[:, 0].tolist()) == set(kept)
        assert probs[kept[0]].item() == pytest.approx(p[kept[0]] / sum(p[j] for j in kept), rel=1e-4)


def test_typical_can_leave_the_most_probable_token_out() -> None:
    logits = torch.tensor([[0.30, *[0.70 / 35] * 35]]).log()  # its surprise is 1.2, the entropy 3.1
    assert Typical(mass=0.5)(logits)[0, 0] == 0


@pytest.mark.parametrize("decoder", ALL, ids=lambda d: type(d).__name__)
def test_tokens_that_cannot_come_never_do(decoder: Sample) -> None:
    logits = torch.tensor([[1.0, -torch.inf, 0.5, -torch.inf, 0.2]])
    probs = decoder(logits)[0]
    assert probs[[1, 3]].tolist() == [0, 0] and probs.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("decoder", ALL, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, None])
def test_logits_that_are_no_distribution(decoder: Sample, bad: float | None) -> None:
    logits = torch.full((2, 5), -torch.inf)
    logits[0] = 0.0
    if bad is not None:
        logits[1] = torch.tensor([0.0, bad, 0.0, 0.0, 0.0])
    with pytest.raises(UserError, match=r"^logits=NaN, inf or all -inf: are no distribution; the range is "):
        decoder(logits)


def test_a_temperature_composes_with_every_set() -> None:
    """The set is chosen from the tempered distribution."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert TopP(temperature=0.5, p=0.7)(logits).count_nonzero() == 2  # 16/30 + 9/30
    assert TopP(p=0.7)(logits).count_nonzero() == 2 and TopP(p=0.71)(logits).count_nonzero() == 3
    assert MinP(temperature=0.5, min_p=0.5)(logits).count_nonzero() == 2
    assert MinP(temperature=2.0, min_p=0.5)(logits).count_nonzero() == 4


def test_a_nucleus_larger_than_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is flat, one is peaked; looked for among 8 tokens first, then among all."""
    logits = torch.stack([torch.randn(200) * 0.1, torch.randn(200) * 5])
    expected = TopP(p=0.9)(logits)
    monkeypatch.setattr("gptlab.decoding.decoders.FIRST", 8)
    assert torch.equal(TopP(p=0.9)(logits), expected)
    exact = [Fraction(x) for x in logits[0].double().softmax(-1).tolist()]
    assert sum(expected[0] > 0) == sum(x > 0 for x in exact_top_p(exact, Fraction(9, 10)))


def test_the_same_sets_as_by_sorting_with_many_ties() -> None:
    for seed in range(30):
        logits = torch.randint(-3, 3, (3, 40), generator=torch.Generator().manual_seed(seed)).float()
        ranked = logits.argsort(dim=-1, descending=True, stable=True)
        for k in (1, 7, 40, 99):
            kept = [sorted(row[:k].tolist()) for row in ranked]
            assert [row.nonzero()[:, 0].tolist() for row in TopK(k=k)(logits)] == kept
        for p in (0.1, 0.5, 0.9, 1.0):
            mass = logits.double().softmax(-1).gather(-1, ranked).cumsum(-1)
            sizes = [int((row < p - 1e-9).sum()) + 1 for row in mass]
            kept = [sorted(row[: min(n, 40)].tolist()) for row, n in zip(ranked, sizes, strict=True)]
            assert [row.nonzero()[:, 0].tolist() for row in TopP(p=p)(logits)] == kept


def test_every_decoder_is_an_option() -> None:
    found = {name: kind.__name__ for name, kind in options("decoder").items()}
    assert found.items() >= {"greedy": "Greedy", "sample": "Sample", "top_k": "TopK", "top_p": "TopP"}.items()
    assert found.items() >= {"min_p": "MinP", "typical": "Typical", "beam": "Beam"}.items()


@pytest.mark.parametrize("decoder", [TopP(p=1.0), Typical(mass=1.0)])
def test_all_of_the_mass_is_every_token(decoder: Sample) -> None:
    """Rounding lets the sum of fp32 probabilities pass 1 long before the last of 50,000 tokens."""
    logits = torch.randn(3, 50_000)
    assert torch.equal(decoder(logits), Sample()(logits)) and (decoder(logits) > 0).all()
