"""Our runs in transformers' hands: the same logits, the same tokens; and back again, bit for bit."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

import gptlab
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.interop.names import config_to, weights_of
from gptlab.model.gpt import GPT
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import PADDED, raise_padding

Tiny = Callable[..., TrainConfig]
LLAMA = ["model.positions=rope", "model.norm=rms", "model.feed_forward=swiglu", "model.bias=false", "model.tied=false"]
SHAPES = {
    "gpt2": [],
    "gpt2 untied": ["model.tied=false", "model.n_inner=24", "model.norm_eps=1e-3"],
    "llama": LLAMA,
    "llama 3": [*LLAMA, "model.n_kv_head=1", "model.tied=true", "model.rope_factor=8", "model.rope_original=16"],
}
COMPLETEP = ["model.parametrization=completep", "model.base_width=8", "model.base_depth=1", "model.base_head_size=2"]
ROPE = ["model.positions=rope", "model.norm=rms", "model.feed_forward=swiglu", "model.tied=false"]
ALSO = {
    "gpt2 without biases": ("GPT2LMHeadModel", ["model.bias=false"]),
    "gpt2 without biases of q, k and v": ("GPT2LMHeadModel", ["model.qkv_bias=false", "model.tied=false"]),
    "llama with biases": ("LlamaForCausalLM", ROPE),
    "llama without biases of q, k and v": ("LlamaForCausalLM", [*ROPE, "model.qkv_bias=false"]),
    "qwen2": ("Qwen2ForCausalLM", [*ROPE, "model.bias=false", "model.qkv_bias=true", "model.n_kv_head=1"]),
    "qwen3": ("Qwen3ForCausalLM", [*ROPE, "model.bias=false", "model.qk_norm=true", "model.norm_eps=1e-3"]),
    "qwen3 with biases": (
        "Qwen3ForCausalLM",
        [*ROPE, "model.bias=false", "model.qk_norm=true", "model.qkv_bias=true", "model.n_kv_head=1"],
    ),
}
TOKENIZERS = ["tokenizer=bpe", "tokenizer=byte", "tokenizer=char"]


def exported(folder: Path) -> Path:
    export(compose("export", [f"out={folder}"]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_gives_the_same_logits_and_the_way_back_is_exact(shape: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*SHAPES[shape], "optimizer.lr=0.03"))
    gpt, _ = gptlab.load()
    hf = exported(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(hf, trust_remote_code=False).eval()
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert (model(idx).logits - gpt(idx)).abs().max() < 1e-4
    import_(compose("import", [f"hf={hf}", f"out={tmp_path}/back"]))
    back, _ = gptlab.load(tmp_path / "back")
    assert all(torch.equal(a, b) for a, b in zip(gpt.state_dict().values(), back.state_dict().values(), strict=True))


@pytest.mark.slow
def test_multipliers_of_a_parametrization_are_in_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*COMPLETEP, "optimizer.lr=0.03"))
    gpt, _ = gptlab.load()
    hf = exported(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(hf, trust_remote_code=False).eval()
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert type(model).__name__ == "GPT2LMHeadModel"
        assert (model(idx).logits - gpt(idx)).abs().max() < 1e-4


@pytest.mark.parametrize("shape", ALSO)
def test_what_hugging_face_has_under_another_name(shape: str, tiny: Tiny, tmp_path: Path) -> None:
    """Also with small queries and keys, where the epsilon of their norms matters."""
    architecture, options = ALSO[shape]
    config = tiny(*options).model
    gpt = GPT(dataclasses.replace(config, vocab_size=257)).eval()
    for name, p in gpt.named_parameters():
        torch.nn.init.normal_(p, mean=float("norm" in name), std=0.01 if "qkv" in name else 0.3)
    hf = config_to(gpt.config)
    (tmp_path / "config.json").write_text(json.dumps(hf | {"bos_token_id": 256, "eos_token_id": 256}))
    weights = weights_of(gpt, hf)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert hf["architectures"] == [architecture] == [type(model).__name__]
    assert not any(info.values())  # nothing missing, nothing too many
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert (model.eval()(idx).logits - gpt(idx)).abs().max() < 1e-4


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_tokenizer_goes_along(tokenizer: str, tiny: Tiny, tmp_path: Path) -> None:
    size = ["tokenizer.vocab_size=300"] if tokenizer.endswith("bpe") else []
    train(tiny(tokenizer, *size))
    _, ours = gptlab.load()
    hf = exported(tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(hf)
    texts = ["the cat sat", " two dogs ran home number 12.\n"]
    if not tokenizer.endswith("char"):
        texts += ["émoji 🐈 \r\n\t  x"]
    for text in texts:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.eot
    import_(compose("import", [f"hf={hf}", f"out={tmp_path}/back"]))
    _, back = gptlab.load(tmp_path / "back")
    assert [back.encode(text) for text in texts] == [ours.encode(text) for text in texts]
    assert (back.n_vocab, back.eot) == (ours.n_vocab, ours.eot)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["model.feed_forward=relu2", "model.qk_norm=true", "model.positions=alibi", "model.logit_softcap=9"]
)
def test_what_stands_in_the_way_is_named(option: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(option))
    key, _, value = option.partition("=")
    with pytest.raises(UserError, match=f"^{key}=(?i:{value})") as raised:
        exported(tmp_path / "there/hf")
    assert "\n" not in str(raised.value) and not (tmp_path / "there").exists()


@pytest.mark.slow
def test_an_imported_model_is_trained_on(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    train(tiny(f"run_dir={tmp_path}/first", "optimizer.lr=0.01", "budget.steps=30"))
    import_(compose("import", [f"hf={exported(tmp_path / 'hf')}", f"out={tmp_path}/imported"]))
    fresh = train(tiny(f"run_dir={tmp_path}/fresh", "budget.steps=1"))
    ongoing = [f"init_from={tmp_path}/imported", "tokenizer=bpe", "model.n_layer=1", "budget.steps=1"]
    summary = train(tiny(f"run_dir={tmp_path}/second", *ongoing))
    assert summary["val_loss"] < fresh["val_loss"] - 0.5
    gpt, tokenizer = gptlab.load(tmp_path / "second")
    assert gpt.config.n_layer == 2 and tokenizer.n_vocab == 257  # the imported ones


@pytest.mark.parametrize("do_sample", [False, True])
def test_transformers_never_draws_padding_either(do_sample: bool, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*PADDED))
    raise_padding(tmp_path / "run/checkpoints/last.ckpt")
    gpt, tokenizer = gptlab.load()
    hf = exported(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(hf).eval()
    idx = torch.tensor([tokenizer.encode("the cat")])
    with torch.no_grad():
        logits = model(idx).logits
        assert (logits - gpt(idx)).abs().max() < 1e-3 and logits.argmax(-1).min() >= 257
    new = model.generate(idx, do_sample=do_sample, max_new_tokens=20, pad_token_id=0)[0, idx.shape[1] :]
    assert len(new) > 5 and new.max() < 257
    assert model.generation_config.eos_token_id == tokenizer.eot
    import_(compose("import", [f"hf={hf}", f"out={tmp_path}/back"]))
    back, again = gptlab.load(tmp_path / "back")
    assert (back.config.vocab_size, again.n_vocab) == (320, 257)
    assert all(torch.equal(a, b) for a, b in zip(gpt.state_dict().values(), back.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_family_that_insists_on_its_tokenizer_has_no_other(tiny: Tiny, tmp_path: Path) -> None:
    """Transformers reads any tokenizer beside a Qwen2 as Qwen2's: the run becomes a Llama, with biases of zero."""
    qwen2 = [*ROPE, "model.bias=false", "model.qkv_bias=true"]
    train(tiny(*qwen2, "tokenizer=bpe", "tokenizer.vocab_size=300"))
    gpt, ours = gptlab.load()
    hf = exported(tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(hf)
    text = "the CAT's 1234 dogs\n\n  ran"
    assert theirs.encode(text) == ours.encode(text)
    model = transformers.AutoModelForCausalLM.from_pretrained(hf).eval()
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert model.config.model_type == "llama" and (model(idx).logits - gpt(idx)).abs().max() < 1e-4
