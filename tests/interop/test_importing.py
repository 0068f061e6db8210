"""Random weights written by transformers itself, read by us: the same logits, the same continuations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.commands.import_ import import_
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import continue_ids
from gptlab.errors import UserError
from gptlab.tokenizers.bpe import BPE

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=96, vocab_size=300)
    return transformers.GPT2LMHeadModel(config)


def llama(**options: object) -> transformers.PreTrainedModel:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**shape, vocab_size=300, max_position_embeddings=96, eos_token_id=299, **options)
    return transformers.LlamaForCausalLM(config)


MODELS = {
    "gpt2": gpt2,
    "llama": llama,
    "llama grouped": lambda: llama(num_key_value_heads=2),
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "llama 3 rope": lambda: llama(num_key_value_heads=1, rope_parameters=LLAMA3),
}


def written(model: transformers.PreTrainedModel, folder: Path, **how: object) -> Path:
    """A Hugging Face directory of the model, its weights spread so that mistakes would show, and a tokenizer."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(folder, **how)
    byte_pairs = BPE(vocab_size=290).build(["the cat sat on the mat " * 9])
    byte_pairs.save(folder)
    (folder / "ranks.tiktoken").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(hf_tokenizer()))
    return folder


def hf_tokenizer() -> dict[str, object]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return json.loads(tokenizer.to_str())


def imported(hf: Path, out: Path) -> Path:
    import_(compose("import", [f"hf={hf}", f"out={out}"]))
    return out


@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits_and_the_same_continuation(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().eval()
    gpt, _ = gptlab.load(imported(written(model, tmp_path / "hf"), tmp_path / "run"))
    idx = torch.randint(256, (2, 40))
    with torch.no_grad():
        assert (gpt(idx) - model(idx).logits).abs().max() < 1e-4
    prompt = idx[:1, :5]
    expected = model.generate(prompt, do_sample=False, max_new_tokens=64, min_new_tokens=64, pad_token_id=0)[0, 5:]
    assert continue_ids(gpt, prompt[0].tolist(), Greedy(), Limits(64, 96), (0,)) == expected.tolist()


def test_shards(tmp_path: Path) -> None:
    model = llama()
    hf = written(model, tmp_path / "hf", max_shard_size="20KB")
    assert len(list(hf.glob("*.safetensors"))) > 2
    gpt, _ = gptlab.load(imported(hf, tmp_path / "run"))
    idx = torch.randint(256, (1, 9))
    assert torch.allclose(gpt(idx), model.eval()(idx).logits, atol=1e-4)


def test_an_import_is_a_run_like_any_other(tmp_path: Path) -> None:
    run = imported(written(gpt2(), tmp_path / "hf"), tmp_path / "run")
    result = sample(compose("sample", [f"run={run}", "prompt=the cat", "max_new_tokens=5"]))
    assert len(result["samples"][0]["ids"]) <= 5
    (tmp_path / "text.txt").write_text("the cat sat. " * 50)
    ask = [f"run={run}", "data=text", "data.files=[text.txt]", "data.val_fraction=1"]
    assert evaluate(compose("evaluate", ask))["tokens"] == 650
    with pytest.raises(UserError, match=r"^data=null: .+held-out"):
        evaluate(compose("evaluate", [f"run={run}"]))


def break_config(hf: Path, **changes: object) -> None:
    path = hf / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN = {
    "no shard": (lambda hf: next(hf.glob("model-00002*")).unlink(), "no such file"),
    "cut shard": (lambda hf: (p := next(hf.glob("model-00002*"))).write_bytes(p.read_bytes()[:300]), "cannot be read"),
    "shape": (lambda hf: break_config(hf, intermediate_size=40), "instead of"),
    "layers": (lambda hf: break_config(hf, num_hidden_layers=3), "has no tensor"),
    "type": (lambda hf: break_config(hf, model_type="mamba"), "^model_type=mamba: "),
    "activation": (lambda hf: break_config(hf, hidden_act="relu"), "^hidden_act=relu: "),
    "vocabulary": (lambda hf: break_config(hf, vocab_size=100), "tokenizer has 256 tokens, its model 100"),
    "config": (lambda hf: (hf / "config.json").write_text("{"), "cannot be read"),
    "tokenizer": (lambda hf: (hf / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_directories_are_one_line_and_leave_nothing(how: str, tmp_path: Path) -> None:
    hf = written(llama(), tmp_path / "hf", max_shard_size="20KB")
    damage, said = BROKEN[how]
    damage(hf)
    with pytest.raises(UserError, match=said) as raised:
        imported(hf, tmp_path / "here/run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "here").exists() or not list((tmp_path / "here").iterdir())


def test_no_such_directory_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^hf=nowhere: no such directory"):
        imported(Path("nowhere"), tmp_path / "run")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route"))
    )
    with pytest.raises(UserError, match=r"^hf=somebody/something: cannot be downloaded .+; give a directory"):
        imported(Path("somebody/something"), tmp_path / "run")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    hf = written(gpt2(), tmp_path / "hf")
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model\.safetensors; convert"):
        imported(hf, tmp_path / "run")


MEASURE = """
import re, sys
import torch
from pathlib import Path
from gptlab.config import compose
from gptlab.commands.import_ import import_
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT

def memory(which):  # bytes, now (VmRSS) or at the highest (VmHWM)
    return 1024 * int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

config = compose("import", [f"hf={sys.argv[1]}", f"out={sys.argv[2]}"])
with torch.device("meta"):  # what PyTorch imports at the first use is not the weights'
    torch.save(GPT(GPTConfig(n_layer=1)).config.n_layer, sys.argv[2] + ".warm")
before = memory("VmRSS")
import_(config)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.slow
def test_importing_holds_little_more_than_the_weights(tmp_path: Path) -> None:
    """GPT-2 small's shape with random weights, in a process of its own: peak memory against the weights' bytes."""
    config = transformers.GPT2Config()
    written(transformers.GPT2LMHeadModel(config), tmp_path / "hf")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "hf"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    share = int(done.stdout.splitlines()[-1]) / (124_439_808 * 4)
    print(f"peak memory: {share:.2f} x the weights")
    assert 0.9 < share < 1.2
