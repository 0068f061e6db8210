"""Adapters in the hands of peft: the same logits, on the model that they were trained on."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gptlab
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.interop.families import model as model_of
from tests.tokenizers.directories import byte_level
from tokenizers import Tokenizer

Tiny = Callable[..., TrainConfig]
peft = pytest.importorskip("peft")  # in the extra `dev`
RATE = ["optimizer.lr=0.01", "adapter.rank=3", "budget.steps=3", "task=causal_lm"]


@pytest.mark.slow
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
    written = export(compose("export", ["run=run", "adapter=merge", f"out={tmp_path}/whole"]))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    assert written["parameters"] == whole.num_parameters()  # the frozen ones as well
    with torch.no_grad():
        assert (whole(idx).logits - ours).abs().max() < 1e-4


def _tokenizer(folder: Path) -> None:
    """A tokenizer of 300 tokens beside a model, whose ends it knows."""
    raw = byte_level().backend_tokenizer
    definition = json.loads(raw.to_str())
    vocab = {token: i for token, i in definition["model"]["vocab"].items() if i < 290}
    merges = [pair for pair in definition["model"]["merges"] if "".join(pair) in vocab]
    definition["model"] |= {"vocab": vocab, "merges": merges}
    made = Tokenizer.from_str(json.dumps(definition))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama, grouped, biases", {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True}),
        ("qwen2", {"target_modules": "all-linear", "use_dora": True}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        pytest.param("gpt_neox", {"target_modules": ["query_key_value"]}, marks=pytest.mark.slow),
    ],
)
def test_a_lora_of_peft_is_what_a_run_begins_with(
    family: str, settings: dict[str, Any], tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = model_of(family)
    theirs.save_pretrained(tmp_path / "hf")
    _tokenizer(tmp_path / "hf")
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    adapted = peft.get_peft_model(fresh, peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **settings)).eval()
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, mean=float("magnitude" in name), std=0.2)
    adapted.save_pretrained(tmp_path / "lora")
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "budget.steps=1", "trainer.val_every_n_steps=1"]
    train(tiny(f"init_from={tmp_path}/lora", *still))
    gpt, _ = gptlab.load("run")
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert (gpt(idx) - adapted(idx).logits).abs().max() < 1e-4
    # the model that it was trained on may be another one by then
    settings_file = tmp_path / "lora/adapter_config.json"
    read = json.loads(settings_file.read_text())
    for change, why in {
        "lora_bias": "lora_bias=true: .+ may change what the adapter computes, and is not known here; merge it",
        "peft_type": "peft_type=true: is not known here; it can be LORA",
        "r": "hf=.+: its tensors of .+ are not those of its settings",
    }.items():
        value: Any = 2 if change == "r" else True
        settings_file.write_text(json.dumps({**read, change: value}))
        capsys.readouterr()
        assert main(["import", f"hf={tmp_path}/lora", "out=out"]) == 2
        assert re.match(f"error: {why}".replace("=true", "=[Tt]rue"), capsys.readouterr().err)
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_hub_directory_is_what_a_run_begins_with(tiny: Tiny, tmp_path: Path) -> None:
    """Also under an adapter, whose base is then found again."""
    theirs = model_of("llama")
    theirs.save_pretrained(tmp_path / "hf")
    _tokenizer(tmp_path / "hf")
    train(tiny(f"init_from={tmp_path}/hf", "adapter=lora", "optimizer.lr=0.01"))
    gpt, _ = gptlab.load("run")
    idx = torch.randint(256, (2, 30))
    with torch.no_grad():
        assert (gpt(idx) - theirs(idx).logits).abs().max() > 0.01
    (tmp_path / "hf/model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"^init_from=\S+: cannot be read"):
        train(tiny(f"init_from={tmp_path}/hf", f"run_dir={tmp_path}/again"))
