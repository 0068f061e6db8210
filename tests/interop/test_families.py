"""Each family with random weights of transformers: logits, continuations and the way back."""

import json
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
from tests.interop.families import MODELS, model


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
        assert (gpt(idx) - expected).abs().max() < 1e-4
        assert (torch.cat([gpt(idx[:, :23]), gpt(idx)[:, 23:]], 1) - expected).abs().max() < (
            9 if "dynamic" in name else 1e-4
        )
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
