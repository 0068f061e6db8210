"""Each family with random weights of transformers: logits, continuations and the way back."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import continue_ids
from gptlab.interop.importing import read_weights
from gptlab.interop.names import config_from, config_to, weights_of
from gptlab.model.gpt import GPT
from gptlab.tokenizers.classes import AS_IT_STANDS, CLASSES
from tests.interop.families import MODELS, model

TABLE = Path(__file__).parents[2] / "docs/interop.md"
DIFFERENCES: dict[str, float] = {}  # model_type -> largest difference of logits seen by the tests of this process


ORIGINAL = {
    **dict.fromkeys(("gpt2", "olmo2", "granite", "opt", "gpt_bigcode"), "GPT2Tokenizer"),
    **dict.fromkeys(("llama", "mistral", "phi3"), "LlamaTokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("olmo", "gpt_neox"), "GPTNeoXTokenizer"),
    **{"smollm3": "PreTrainedTokenizerFast", "phi": "CodeGenTokenizer", "bloom": "BloomTokenizer"},
}  # model_type -> the tokenizer_class of the published models


def row(kind: str, bound: float) -> str:
    """The row of a family in the table of docs/interop.md, with a bound of the difference of logits."""
    shapes = sum(name.split(",")[0] == kind for name in MODELS)
    name = ORIGINAL[kind]
    assert name in CLASSES or name in AS_IT_STANDS
    return f"| `{kind}` | yes | {shapes} | {bound:.0e} | {name} | equal |"


def read(hf: Path) -> GPT:
    """Our model of a directory, as an import reads it."""
    config = json.loads((hf / "config.json").read_text())
    ours = config_from(config)
    gpt = GPT(ours).eval()
    gpt.load_state_dict(read_weights(hf, config["model_type"], ours))
    return gpt


@pytest.mark.parametrize("name", MODELS)
def test_logits_continuations_and_the_way_back(name: str, tmp_path: Path) -> None:
    theirs = model(name)
    theirs.save_pretrained(tmp_path / "hf")
    gpt = read(tmp_path / "hf")
    idx = torch.randint(2, 290, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(idx).logits
        difference = (gpt(idx) - expected).abs().max().item()
        assert difference < 1e-4
    kind = theirs.config.model_type
    DIFFERENCES[kind] = max(DIFFERENCES.get(kind, 1e-9), difference)
    prompt = idx[:1, :5]
    size = min(gpt.config.block_size - 5, 40)
    new = theirs.generate(prompt, do_sample=False, max_new_tokens=size, min_new_tokens=size, pad_token_id=0)[0, 5:]
    assert continue_ids(gpt, prompt[0].tolist(), Greedy(), Limits(size, size + 5), (0,)) == new.tolist()
    back = config_to(gpt.config, theirs.config.model_type)
    assert back["model_type"] == theirs.config.model_type
    (tmp_path / "back").mkdir()
    (tmp_path / "back/config.json").write_text(json.dumps(back))
    weights, original = weights_of(gpt, back), load_file(tmp_path / "hf/model.safetensors")
    if name.startswith("opt"):  # two rows that no position uses
        original["model.decoder.embed_positions.weight"][:2] = 0
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[key], original[key]) for key in weights)
    save_file(weights, tmp_path / "back/model.safetensors", metadata={"format": "pt"})
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    with torch.no_grad():
        assert (again(idx).logits - expected).abs().max() < 1e-5


def test_the_table_of_the_docs() -> None:
    """Written again with GPTLAB_REWRITE_TABLES=1, where all of this file runs in one process."""
    text = TABLE.read_text("utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    if os.environ.get("GPTLAB_REWRITE_TABLES"):
        made = "\n".join(
            row(kind, 10 ** math.ceil(math.log10(3 * difference))) for kind, difference in DIFFERENCES.items()
        )
        old = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
        TABLE.write_text(text.replace(old, made), "utf-8")
        return
    assert list(rows) == list(dict.fromkeys(name.split(",")[0] for name in MODELS))
    for kind, difference in DIFFERENCES.items():
        bound = float(rows[kind].split("|")[4])
        assert difference <= bound and rows[kind] == row(kind, bound)
