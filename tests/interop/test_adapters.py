"""Adapters in the hands of peft: the same logits, on the model that they were trained on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import gptlab
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.interop.families import model as model_of

Tiny = Callable[..., TrainConfig]
peft = pytest.importorskip("peft")
RATE = ["optimizer.lr=0.01", "adapter.rank=3", "budget.steps=3", "task=causal_lm"]


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("gpt2", "lora"),
        ("gpt2", "dora"),
        ("llama, grouped, biases", "lora"),
        ("qwen3", "dora"),
        pytest.param("gpt_neox", "lora", marks=pytest.mark.slow),
        pytest.param("opt", "lora", marks=pytest.mark.slow),
    ],
)
def test_peft_gives_the_same_logits(family: str, adapter: str, tiny: Tiny, tmp_path: Path) -> None:
    """An imported model, an adapter trained here, and both in transformers and peft."""
    theirs = model_of(family)
    theirs.save_pretrained(tmp_path / "hf")
    _tokenizer(tmp_path / "hf")
    import_(compose("import", [f"hf={tmp_path}/hf", f"out={tmp_path}/base"]))
    train(tiny("init_from=base", f"adapter={adapter}", *RATE))
    written = export(compose("export", ["run=run", "adapter=true", f"out={tmp_path}/adapter"]))
    assert written["architecture"] == "LoRA"
    idx = torch.randint(256, (2, 30))
    gpt, _ = gptlab.load("run")
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        before = fresh(idx).logits
        adapted = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
        after, ours = adapted(idx).logits, gpt(idx)
        assert (before - after).abs().max() > 0.01
        assert (after - ours).abs().max() < 1e-4
    export(compose("export", ["run=run", "adapter=merge", f"out={tmp_path}/whole"]))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        assert (whole(idx).logits - ours).abs().max() < 1e-4


def _tokenizer(folder: Path) -> None:
    """A tokenizer of 300 tokens beside a model, whose ends it knows."""
    from tests.tokenizers.directories import byte_level
    from tokenizers import Tokenizer

    raw = byte_level().backend_tokenizer
    import json

    definition = json.loads(raw.to_str())
    vocab = {token: i for token, i in definition["model"]["vocab"].items() if i < 290}
    merges = [pair for pair in definition["model"]["merges"] if "".join(pair) in vocab]
    definition["model"] |= {"vocab": vocab, "merges": merges}
    made = Tokenizer.from_str(json.dumps(definition))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(folder)


def test_what_peft_does_not_have(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("budget.steps=1", f"run_dir={tmp_path}/base"))
    out = f"out={tmp_path}/out"
    with pytest.raises(UserError, match=r"^run=base: has no adapter; leave adapter out, to export the whole model"):
        export(compose("export", ["run=base", "adapter=true", out]))
    train(tiny("init_from=base", "adapter=bitfit", "budget.steps=1"))
    with pytest.raises(UserError, match=r"^run=run: was trained with adapter=bitfit, which peft does not have; leave"):
        export(compose("export", ["run=run", "adapter=true", out]))
    train(tiny("init_from=base", "adapter=lora", "adapter.rank=17", "budget.steps=1", f"run_dir={tmp_path}/wide"))
    with pytest.raises(
        UserError, match=r"^adapter.rank=17: is more than the width 16 of blocks.0.attn.qkv; export the"
    ):
        export(compose("export", ["run=wide", "adapter=true", out]))
    with pytest.raises(UserError, match=r"^adapter=yes: no such option; choose one of merge, true"):
        compose("export", ["adapter='yes'", out])
    assert not (tmp_path / "out").exists()
