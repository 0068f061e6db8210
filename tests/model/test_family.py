"""One class, many architectures: every option alone and together."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from gptlab.config import compose
from gptlab.model.attention import attend
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params
from gptlab.model.layers import gelu
from gptlab.model.shape import CHOICES

TINY = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "vocab_size": 100}
EVERY = list(itertools.product(CHOICES["norm"], CHOICES["feed_forward"], [None, 1, 2], [False, True]))


def by_hand(
    V: int, C: int, L: int, inner: int, q: int = 0, kv: int = 0, matrices: int = 3, each: int = 0, once: int = 0
) -> int:
    """Count a published configuration's parameters by the arithmetic of its report.

    V ids, L layers of width C, feed-forwards of width `inner` with 2 or 3 matrices, queries of width q and keys of width kv
    (0: as C); `each` layer has that many numbers in norms and biases, and `once` there are those and further ones.
    """
    q, kv = q or C, kv or q or C
    return V * C + L * (2 * C * q + 2 * C * kv + matrices * C * inner + each) + once


BY_HAND = {  # untied: another V C at the end
    "llama2_7b": by_hand(32000, 4096, 32, 11008, each=2 * 4096, once=4096 + 32000 * 4096),
    "llama2_13b": by_hand(32000, 5120, 40, 13824, each=2 * 5120, once=5120 + 32000 * 5120),
    "llama2_70b": by_hand(32000, 8192, 80, 28672, kv=8 * 128, each=2 * 8192, once=8192 + 32000 * 8192),
    "llama3_8b": by_hand(128256, 4096, 32, 14336, kv=8 * 128, each=2 * 4096, once=4096 + 128256 * 4096),
    "llama3_1b": by_hand(128256, 2048, 16, 8192, kv=8 * 64, each=2 * 2048, once=2048),
    # a context of 256, no biases of queries, keys and values: biases C, 4 C, C and two norms of 2 C
    "book": by_hand(50257, 768, 12, 3072, matrices=2, each=10 * 768, once=(2 + 256 + 50257) * 768),
    "mistral_7b": by_hand(32000, 4096, 32, 14336, kv=8 * 128, each=2 * 4096, once=4096 + 32000 * 4096),
    "qwen2_0_5b": by_hand(151936, 896, 24, 4864, kv=2 * 64, each=3 * 896 + 2 * 128, once=896),
    "qwen3_0_6b": by_hand(151936, 1024, 28, 3072, 16 * 128, 8 * 128, each=2 * 1024 + 2 * 128, once=1024),
    "smollm2_135m": by_hand(49152, 576, 30, 1536, kv=3 * 64, each=2 * 576, once=576),
    "smollm3_3b": by_hand(128256, 2048, 36, 11008, kv=4 * 128, each=2 * 2048, once=2048),
    "tinyllama": by_hand(32000, 2048, 22, 5632, kv=4 * 64, each=2 * 2048, once=2048 + 32000 * 2048),
    "olmo_1b": by_hand(50304, 2048, 16, 8192),
    "olmo_7b": by_hand(50304, 4096, 32, 11008, once=50304 * 4096),
    "olmo2_7b": by_hand(100352, 4096, 32, 11008, each=4 * 4096, once=4096 + 100352 * 4096),
    # biases 3 C, C, 4 C, C and two norms of 2 C
    "pythia_160m": by_hand(50304, 768, 12, 3072, matrices=2, each=13 * 768, once=(2 + 50304) * 768),
    "phi_2": by_hand(51200, 2560, 32, 10240, matrices=2, each=11 * 2560, once=(2 + 51200) * 2560 + 51200),
    "phi_3_mini": by_hand(32064, 3072, 32, 8192, each=2 * 3072, once=3072 + 32064 * 3072),
    "opt_125m": by_hand(50272, 768, 12, 3072, matrices=2, each=13 * 768, once=(2 + 2048) * 768),
    "gemma_2b": by_hand(256000, 2048, 18, 16384, 8 * 256, 256, each=2 * 2048, once=2048),
    "gemma2_2b": by_hand(256000, 2304, 26, 9216, 8 * 256, 4 * 256, each=4 * 2304, once=2304),
    "gemma3_1b": by_hand(262144, 1152, 26, 6912, 4 * 256, 256, each=4 * 1152 + 2 * 256, once=1152),
    # one key and value of width 128: biases C + 256, C, 4 C, C and two norms
    "starcoderbase_1b": by_hand(
        49152, 2048, 24, 8192, kv=128, matrices=2, each=11 * 2048 + 256, once=(2 + 8192) * 2048
    ),
    "bloom_560m": by_hand(250880, 1024, 24, 4096, matrices=2, each=13 * 1024, once=4 * 1024),
    "granite_2b": by_hand(49155, 2048, 40, 8192, kv=8 * 64, each=2 * 2048, once=2048),
}


@pytest.mark.parametrize(
    ("size", "vocab_size", "parameters"),
    [
        ("llama2_7b", 32000, 6_738_415_616),
        ("llama2_13b", 32000, 13_015_864_320),
        ("llama2_70b", 32000, 68_976_648_192),
        ("llama3_8b", 128256, 8_030_261_248),
        ("llama3_1b", 128256, 1_235_814_400),
        ("book", 50257, 162_419_712),
        ("mistral_7b", 32000, 7_241_732_096),
        ("qwen2_0_5b", 151936, 494_032_768),
        ("qwen3_0_6b", 151936, 596_049_920),
        ("smollm2_135m", 49152, 134_515_008),
        ("smollm3_3b", 128256, 3_075_098_624),
        ("tinyllama", 32000, 1_100_048_384),
        ("olmo_1b", 50304, 1_176_764_416),
        ("olmo_7b", 50304, 6_888_095_744),
        ("olmo2_7b", 100352, 7_298_617_344),
        ("pythia_160m", 50304, 162_322_944),
        ("phi_2", 51200, 2_779_683_840),
        ("phi_3_mini", 32064, 3_821_079_552),
        ("opt_125m", 50272, 125_239_296 - 2 * 768),  # less the two rows that no position uses
        ("gemma_2b", 256000, 2_506_172_416),
        ("gemma2_2b", 256000, 2_614_341_888),
        ("gemma3_1b", 262144, 999_885_952),
        ("starcoderbase_1b", 49152, 1_137_207_296),
        ("bloom_560m", 250880, 559_214_592),
        ("granite_2b", 49155, 2_533_531_648),
    ],
)
def test_published_sizes(size: str, vocab_size: int, parameters: int) -> None:
    assert BY_HAND[size] == parameters
    config = compose("train", [f"model={size}", f"model.vocab_size={vocab_size}"]).model
    with torch.device("meta"):
        assert num_params(GPT(config)) == parameters


@pytest.mark.slow
def test_the_book_to_the_digit() -> None:
    """Raschka, ch. 4 and 5: the untrained model of seed 123."""
    config = compose("train", ["model=book", "model.vocab_size=50257"]).model
    torch.manual_seed(123)
    gpt = GPT(config).eval()
    x = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
    y = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])
    with torch.no_grad():
        logits = gpt(x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        assert loss.item() == pytest.approx(10.793964385986328, abs=1e-4)
        assert loss.exp().item() == pytest.approx(48725.82, rel=1e-4)
        assert logits.argmax(-1).tolist() == [[16657, 339, 42826], [49906, 29669, 41751]]
        ids = [6109, 3626, 6100, 345]
        for _ in range(10):
            ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    assert ids[4:] == [34245, 5139, 2492, 25405, 17434, 17853, 5308, 3398, 13174, 43071]


@pytest.mark.parametrize("positions", CHOICES["positions"])
def test_every_combination_is_causal_starts_uniform_and_learns_in_all_parts(
    positions: str, some: Callable[..., list[tuple[str, str, int | None, bool]]]
) -> None:
    for norm, feed_forward, n_kv_head, qk_norm in some(EVERY, 5):
        config = GPTConfig(
            **TINY, positions=positions, norm=norm, feed_forward=feed_forward, n_kv_head=n_kv_head, qk_norm=qk_norm
        )
        is_causal_starts_uniform_and_learns_in_all_parts(config)


def is_causal_starts_uniform_and_learns_in_all_parts(config: GPTConfig) -> None:
    gpt = GPT(config)
    idx = torch.randint(100, (4, 12))
    logits = gpt(idx)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), idx[:, 1:].flatten())
    assert abs(loss.item() - math.log(100)) < 0.2
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gpt.parameters())
    changed = idx.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 100
    assert torch.allclose(gpt(changed)[:, :6], logits[:, :6], atol=1e-6)
    assert not torch.allclose(gpt(changed)[:, 6], logits[:, 6], atol=1e-6)


def options() -> list[dict[str, object]]:
    return [
        *({"positions": p} for p in CHOICES["positions"]),
        *({"feed_forward": f} for f in CHOICES["feed_forward"][1:]),
        *({"norm": "rms"}, {"n_kv_head": 2}, {"n_inner": 48}, {"qk_norm": True}, {"bias": False}, {"qkv_bias": False}),
        *({"tied": False}, {"logit_softcap": 2.0}, {"norm_eps": 0.1}, {"init": "zero"}, {"init": "torch"}),
        *({"positions": "rope", "rope_base": 100.0}, {"positions": "rope", "rope_factor": 8.0, "rope_original": 16}),
    ]


def test_every_option_changes_the_outcome() -> None:
    seen: list[torch.Tensor] = []
    idx = torch.randint(100, (1, 16))
    for option in options():
        torch.manual_seed(1)
        gpt = GPT(GPTConfig(**TINY, **option)).eval()  # type: ignore[arg-type]
        torch.manual_seed(1)
        for p in gpt.parameters():  # far from the start, where options show; zero-init has its own test
            if option.get("init") is None:
                torch.nn.init.normal_(p, std=0.3)
        logits = gpt(idx)
        assert not any(torch.allclose(logits, other) for other in seen), option
        seen.append(logits)


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize(
    ("dtype", "T", "atol"),
    [(torch.float32, 6, 1e-5), (torch.bfloat16, 6, 0.03), (torch.bfloat16, 520, 0.03)],
    ids=["fused, fp32", "products, bf16", "fused, bf16"],
)
def test_attention_against_float64(heads: int, alibi: bool, dtype: torch.dtype, T: int, atol: float) -> None:
    q, k, v = (torch.randn(2, h, T, 8, dtype=dtype) for h in (4, heads, heads))
    mask = torch.full((T, T), -math.inf).triu(1)
    bias = mask + torch.randn(4, T, T).to(dtype) if alibi else None
    q64, k64, v64 = (t.double().repeat_interleave(4 // t.shape[1], dim=1) for t in (q, k, v))
    scores = q64 @ k64.mT / math.sqrt(8) + (mask if bias is None else bias)
    assert torch.allclose(attend(q, k, v, bias, 0.0).double(), scores.softmax(-1) @ v64, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "backend", "atol"), [(torch.float32, "aot_eager", 1e-5), (torch.bfloat16, "inductor", 0.02)]
)
def test_compiled_gelu_is_that_of_pytorch(dtype: torch.dtype, backend: str, atol: float) -> None:
    """It is written in another way then: values and gradients, far out too; inductor's bf16 is computed in fp32."""
    x = torch.linspace(-40, 40, 8001).to(dtype).requires_grad_()
    values = torch.compile(gelu, backend=backend)(x)
    values.sum().backward()  # type: ignore[no-untyped-call]
    exact = x.detach().double().requires_grad_()
    torch.nn.functional.gelu(exact, approximate="tanh").sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and exact.grad is not None
    assert torch.allclose(x.grad.double(), exact.grad, atol=atol)
    expected = torch.nn.functional.gelu(exact, approximate="tanh")
    assert torch.allclose(values.double(), expected, rtol=atol, atol=atol)


def test_dropout_of_attention_keeps_the_mean_in_both_ways() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(1, 2, 8, 4).to(dtype) for _ in range(3))
        many = torch.stack([attend(q, k, v, None, 0.3) for _ in range(3000)]).float()
        assert torch.allclose(many.mean(0), attend(q, k, v, None, 0.0).float(), atol=0.12)
        assert many[:, 0, 0, 0].eq(0).any(dim=-1).float().mean() == pytest.approx(0.3, abs=0.05)


def test_zero_init_starts_as_the_embedding_alone() -> None:
    gpt = GPT(GPTConfig(**TINY, init="zero", positions="rope", bias=False))
    idx = torch.randint(100, (1, 9))
    assert torch.equal(gpt(idx), gpt.lm_head(gpt.ln_f(gpt.wte(idx))))


def test_softcap_bounds_the_logits() -> None:
    gpt = GPT(GPTConfig(**TINY, logit_softcap=1.5, init="torch"))
    idx = torch.randint(100, (1, 9))
    assert gpt(idx).abs().max() <= 1.5
    free = GPT(GPTConfig(**TINY, init="torch"))
    free.load_state_dict(gpt.state_dict())
    assert torch.allclose(gpt(idx), 1.5 * torch.tanh(free(idx) / 1.5))


def test_qk_norm_forgets_the_length_of_queries() -> None:
    gpt = GPT(GPTConfig(**TINY, qk_norm=True)).eval()
    idx = torch.randint(100, (1, 9))
    before = gpt(idx)
    with torch.no_grad():
        gpt.blocks[0].attn.qkv.weight[:32] *= 7
    assert torch.allclose(gpt(idx), before, atol=1e-3)


def test_tying() -> None:
    tied, untied = GPT(GPTConfig(**TINY)), GPT(GPTConfig(**TINY, tied=False))
    assert num_params(untied) - num_params(tied) == 100 * 32


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
def test_beyond_the_context_where_positions_allow_it(positions: str) -> None:
    gpt = GPT(GPTConfig(**TINY, positions=positions))
    assert gpt(torch.randint(100, (1, 64))).isfinite().all()


@pytest.mark.parametrize(
    "field",
    [{"n_kv_head": 3}, {"n_kv_head": 0}, {"positions": "sine"}, {"norm": "batch"}, {"feed_forward": "tanh"}]
    + [{"init": "ones"}, {"logit_softcap": -1.0}, {"norm_eps": 0.0}, {"rope_factor": 0.0}, {"rope_low_freq": 9.0}],
)
def test_impossible_options_name_the_field(field: dict[str, float]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: .+; .+"):
        GPTConfig(**(TINY | field))  # type: ignore[arg-type]
