"""Random weights written by transformers itself, read by us: the same logits, the same continuations."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

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


def saved(model: transformers.PreTrainedModel, folder: Path, change: Callable[[str], str] = str) -> Path:
    """A directory with the weights under other names."""
    hf = written(model, folder)
    weights = {change(name): tensor for name, tensor in load_file(hf / "model.safetensors").items()}
    save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})
    return hf


def same_logits(hf: Path, model: transformers.PreTrainedModel, out: Path) -> bool:
    gpt, _ = gptlab.load(imported(hf, out))
    idx = torch.randint(256, (1, 9))
    with torch.no_grad():
        return bool((gpt(idx) - model.eval()(idx).logits).abs().max() < 1e-4)


NAMES: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "data-parallel, compiled": lambda name: f"module._orig_mod.{name}",
    "no root": lambda name: name.removeprefix("model."),
    "root twice": lambda name: f"model.{name}",
}


@pytest.mark.parametrize("how", NAMES)
def test_prefixes_do_not_matter(how: str, tmp_path: Path) -> None:
    model = llama(num_key_value_heads=2)
    assert same_logits(saved(model, tmp_path / "hf", NAMES[how]), model, tmp_path / "run")


@pytest.mark.parametrize("n_files", [1, 2])
def test_pickled_weights(n_files: int, tmp_path: Path) -> None:
    model = llama()
    hf = written(model, tmp_path / "hf")
    weights = list(load_file(hf / "model.safetensors").items())
    (hf / "model.safetensors").unlink()
    if n_files == 1:
        torch.save(dict(weights), hf / "pytorch_model.bin")
    else:
        for i in range(2):
            torch.save(dict(weights[i::2]), hf / f"part{i}.bin")
        index = {name: f"part{i % 2}.bin" for i, (name, _) in enumerate(weights)}
        (hf / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert same_logits(hf, model, tmp_path / "run")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil"),)


def test_code_in_pickled_weights_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hf = written(gpt2(), tmp_path / "hf")
    (hf / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Evil()}, hf / "pytorch_model.bin")
    with pytest.raises(UserError, match="is damaged, or holds more than tensors"):
        imported(hf, tmp_path / "run")
    assert not Path("evil").exists() and not (tmp_path / "run").exists()


def test_a_single_file_counts_before_an_index(tmp_path: Path) -> None:
    """As in transformers: an index that an earlier sharded save left behind is not read."""
    model = llama()
    hf = written(model, tmp_path / "hf", max_shard_size="20KB")
    for path in hf.glob("model-*.safetensors"):
        save_file({k: v * 2 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    save_file(
        {k: v.clone() for k, v in model.state_dict().items()}, hf / "model.safetensors", metadata={"format": "pt"}
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(hf)
    assert same_logits(hf, theirs, tmp_path / "run")


def add(hf: Path, **tensors: torch.Tensor) -> None:
    weights = load_file(hf / "model.safetensors") | tensors
    save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})


QUERY = "model.layers.0.self_attn.q_proj.weight"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "unread tensor": (
        lambda hf: add(hf, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}),
        r"has tensors that a llama with its config.json does not have: model\.layers\.0\.self_attn\.q_proj\.bias",
    ),
    "unread adapter": (lambda hf: add(hf, **{"lora_A.weight": torch.zeros(32)}), r"does not have: lora_A\.weight"),
    "float8": (
        lambda hf: add(hf, **{QUERY: torch.zeros(32, 32).to(torch.float8_e4m3fn)}),
        r"model\.layers\.0\.self_attn\.q_proj\.weight has the dtype float8_e4m3fn",
    ),
    "int8": (
        lambda hf: add(hf, **{QUERY: torch.zeros(32, 32, dtype=torch.int8)}),
        "has the dtype int8",
    ),
    "quantized": (
        lambda hf: break_config(hf, quantization_config={"quant_method": "fp8"}),
        "^quantization_config=fp8: its weights are quantized",
    ),
    "experts": (
        lambda hf: break_config(hf, model_type="mixtral", num_local_experts=8),
        "^model_type=mixtral: is a mix",
    ),
    "unknown field": (
        lambda hf: break_config(hf, logit_scale=0.06),
        r"^logit_scale=0\.06: is not known for model_type=",
    ),
    "rope": (
        lambda hf: break_config(hf, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        "^rope_type=longrope: is not known here",
    ),
    "tied, with another head": (lambda hf: break_config(hf, tie_word_embeddings=True), "its lm_head.weight is not its"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_not_understood_is_refused(how: str, tmp_path: Path) -> None:
    hf = written(llama(), tmp_path / "hf")
    change, said = REFUSED[how]
    change(hf)
    with pytest.raises(UserError, match=said) as raised:
        imported(hf, tmp_path / "here/run")
    assert "\n" not in str(raised.value) and not list(tmp_path.glob("here/*"))


def test_buffers_of_older_versions_are_passed_over(tmp_path: Path) -> None:
    model = gpt2()
    hf = written(model, tmp_path / "hf")
    add(hf, **{"transformer.h.0.attn.bias": torch.ones(4, 4, dtype=torch.bool)})
    add(hf, **{"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})
    assert same_logits(hf, model, tmp_path / "run")


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
    """GPT-2 small with half its layers, in a process of its own: peak memory against the weights' bytes."""
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=6))
    model.to_empty(device="cpu").tie_weights()  # no time for random ones
    for i, weight in enumerate(model.parameters()):
        torch.nn.init.constant_(weight, i / 1000)
    written(model, tmp_path / "hf")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "hf"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    share = int(done.stdout.splitlines()[-1]) / (sum(weight.nbytes for weight in model.parameters()))
    print(f"peak memory: {share:.2f} x the weights")
    assert 0.9 < share < 1.2
