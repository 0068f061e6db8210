"""Classifiers in transformers' hands: the same logits for their labels, texts of unequal lengths in one batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import gptlab
from gptlab.commands.export import export
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.interop.classifiers import classifier_to, padding_id
from gptlab.interop.families import FAMILIES
from gptlab.interop.names import config_from
from gptlab.model.gpt import GPT
from gptlab.model.heads import LastTokenHead
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.saved import task_of
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import CharTokenizer
from gptlab.training.run import train
from tests.conftest import working_in
from tests.interop import families
from tests.tasks.test_examples import LEARN, records, write

PAD = 0
LABELS = ["ham", "spam", "neither"]
HERE = [name for name in families.MODELS if name in FAMILIES and name != "granite"]


def classifier(name: str, bias: bool) -> LastTokenHead:
    """A classifier of a family with weights that are not those of any layer's beginning."""
    hf = families.model(name).config.to_dict() | {"model_type": name}
    model = LastTokenHead(GPT(config_from(hf)), len(LABELS), bias).eval()
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1 and p.numel() > 3), std=0.2)
    return model


def biased(name: str) -> bool:
    return (
        getattr(GPT(config_from(families.model(name).config.to_dict() | {"model_type": name})).ln_f, "bias", None)
        is not None
    )


@pytest.mark.parametrize("name", HERE)
def test_logits_are_equal_in_every_family(name: str, tmp_path: Path) -> None:
    """The bias of the head is in the norm before it, where that has one; else there is none."""
    model = classifier(name, biased(name))
    hf, weights = classifier_to(model, LABELS, name, FAMILIES)
    assert hf["model_type"] == name
    (tmp_path / "config.json").write_text(json.dumps(hf | {"pad_token_id": PAD}))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    theirs, info = load(tmp_path, output_loading_info=True)
    assert not any(info.values()) and [type(theirs).__name__] == hf["architectures"]
    assert theirs.config.id2label == dict(enumerate(LABELS)) and theirs.config.label2id["spam"] == 1
    idx = torch.randint(1, 299, (2, 20))
    idx[1, 12:] = PAD
    with torch.no_grad():
        expected = model(idx, torch.tensor([19, 11]))
        found = theirs.eval()(idx, attention_mask=(idx != PAD).long()).logits
    assert expected.std() > 0.1 and (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


def test_a_bias_that_nothing_can_take_over_is_refused() -> None:
    model = classifier("llama", True)
    with pytest.raises(
        UserError, match=r"^run=llama: the head of its task has a bias, .*; train it with task.head_bias=false"
    ):
        classifier_to(model, LABELS, "llama", ["llama"])
    torch.nn.init.zeros_(model.score.bias)
    assert classifier_to(model, LABELS, "llama", ["llama"])[0]["architectures"] == ["LlamaForSequenceClassification"]
    flat = classifier("gpt2", True)
    torch.nn.init.zeros_(flat.score.weight)
    with pytest.raises(UserError, match="^run=gpt2: the head of its task has a bias"):
        classifier_to(flat, LABELS, "gpt2", ["gpt2"])


def test_what_pads_is_no_token_of_a_text() -> None:
    byte = Byte().build([])
    assert padding_id(byte) == byte.eot == 256
    closed = CharTokenizer("\na", closed=True)
    assert closed.eot_is_text and padding_id(closed) is None


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    rms = ["model.positions=rope", "model.norm=rms", "model.feed_forward=swiglu", "model.bias=false"]
    with working_in(folder):
        write(folder / "train.jsonl", records())
        train(compose("train", [*LEARN, *(rms if request.param == "llama" else []), f"run_dir={folder}/run"]))
    return folder / "run"


@pytest.mark.slow
def test_a_run_and_its_export_give_texts_the_same_probabilities(run: Path, tmp_path: Path) -> None:
    """Texts of several lengths, with the tokenizer and the padding of the directory; back in by no other way."""
    done = export(compose("export", [f"run={run}", f"out={tmp_path}/hf"]))
    kind = "GPT2" if run.parent.name.startswith("gpt2") else "Llama"
    assert done["architecture"] == f"{kind}ForSequenceClassification"
    assert not (tmp_path / "hf/generation_config.json").exists()
    model, tokenizer = gptlab.load(run)
    task: Any = task_of(RunDir.find(run).config())
    texts = [each["text"] for each in records()[:8]]
    expected = task.predict(model, tokenizer, texts)
    assert len({len(text) for text in texts}) > 1
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    read: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        shares = theirs(**read(texts, padding=True, truncation=True, return_tensors="pt")).logits.double().softmax(-1)
    names = [theirs.config.id2label[number] for number in range(shares.shape[1])]
    assert names == list(expected[0])
    for row, each in zip(shares.tolist(), expected, strict=True):
        assert row == pytest.approx(list(each.values()), abs=1e-5)
    with pytest.raises(UserError, match="^run=.*: has the head of a task .*LastTokenHead"):
        export(compose("export", [f"run={run}", f"out={tmp_path}/a.gguf", "format=gguf"]))
