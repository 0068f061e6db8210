"""Tokenizer classes of published families: ids, text and bytes as transformers has them, also after an export."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gptlab
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.classes import AS_IT_STANDS, BACKEND, INSISTING, REGISTERED
from gptlab.tokenizers.directory import read_tokenizer
from gptlab.tokenizers.torture import TEXTS
from tests.interop.families import model
from tests.tokenizers.published import bloom, codegen, digits, gemma, gpt_neox, write

PUBLISHED: dict[str, tuple[Callable[[], Any], str]] = {  # tokenizer, and a model of the family
    "gemma": (gemma, "gemma"),
    "gemma 2": (gemma, "gemma2"),
    "gemma 3": (gemma, "gemma3_text"),
    "pythia": (gpt_neox, "gpt_neox"),
    "olmo": (gpt_neox, "olmo"),
    "phi": (codegen, "phi"),
    "bloom": (bloom, "bloom"),
    "starcoder": (digits, "gpt_bigcode"),
    "granite": (digits, "granite"),
    "smollm": (digits, "llama"),
}


def directory(folder: Path, made: Any, of: str, n_vocab: int = 0, **changes: Any) -> Path:
    """A model of transformers, its embedding as large as the vocabulary, with a tokenizer in its published shape."""
    theirs = model(of)
    theirs.resize_token_embeddings(n_vocab or made[0].get_vocab_size() + 4)
    theirs.save_pretrained(folder)
    write(folder, made, **changes)
    return folder


def same(ours: Tokenizer, theirs: Any, prefix: bool = False) -> None:
    """With a `prefix` space, ours leaves out of a text the space that nobody wrote."""
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == (decoded.removeprefix(" ") if prefix else decoded)
    assert ours.declared.bos == theirs.bos_token_id and ours.ends[:1] == (theirs.eos_token_id,)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_import_run_and_export_have_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    make, of = PUBLISHED[name]
    hf = directory(tmp_path / "hf", make(), of)
    theirs = transformers.AutoTokenizer.from_pretrained(hf)
    import_(compose("import", [f"hf={hf}", f"out={tmp_path}/run"]))
    gpt, ours = gptlab.load(tmp_path / "run")
    same(ours, theirs)
    adds_bos = theirs.encode("a")[0] == theirs.bos_token_id
    assert ours.declared.adds_bos == adds_bos == name.startswith("gemma")
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/back"]))
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    same(ours, back)
    assert (back.bos_token, back.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert back.encode("Hello 123  world") == theirs.encode("Hello 123  world")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    idx = torch.tensor([back.encode("Hello 123  world")])
    with torch.no_grad():
        assert (again(idx).logits - gpt(idx)).abs().max() < 1e-4


@pytest.mark.parametrize("make", [gemma, gpt_neox, codegen, bloom, digits])
def test_bytes_of_tokens_are_exact(make: Callable[[], Any], tmp_path: Path) -> None:
    """One by one, after the first, they are the bytes of the text, in the form that the tokenizer has normalized."""
    write(tmp_path, make())
    ours, _ = read_tokenizer(tmp_path, {"model_type": "granite", "vocab_size": 500})
    for text in TEXTS:
        if "\u2581" in text:
            continue  # which Gemma cannot tell from a space
        ids = ours.encode(text)
        spelled = unicodedata.normalize("NFC", text) if make is gpt_neox else text
        assert ours.decode_bytes(ids) == b"".join(ours.decode_part([i], False) for i in ids) == spelled.encode()


@pytest.mark.parametrize("make", [gemma, gpt_neox, codegen, bloom, digits])
@pytest.mark.parametrize("kind", ["gpt2", "gemma", "gpt_neox", "qwen2", "granite", "llama"])
def test_the_class_that_reads_is_the_one_of_transformers(kind: str, make: Callable[[], Any], tmp_path: Path) -> None:
    """Whatever a family's files declare: the family has a say in it, too."""
    made, hf = make(), {"model_type": kind, "vocab_size": 600}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    own = made[1]["tokenizer_class"]
    for declared, prefix in ((own, False), (own, True), ("PreTrainedTokenizerFast", False), (None, False)):
        write(tmp_path, made, tokenizer_class=declared, add_prefix_space=prefix)
        ours, _ = read_tokenizer(tmp_path, hf)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        before = json.dumps(json.loads(theirs.backend_tokenizer.to_str())["pre_tokenizer"])
        same(ours, theirs, '"add_prefix_space": true' in before)


def test_the_registered_classes_are_those_of_transformers() -> None:
    from transformers.models.auto import tokenization_auto

    names = tokenization_auto.TOKENIZER_MAPPING_NAMES
    families = (*REGISTERED, "llama", "smollm3", "bloom")
    assert {kind: names.get(kind) for kind in families} == {kind: REGISTERED.get(kind) for kind in families}
    wrong = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert {kind for kind in families if kind in wrong and REGISTERED.get(kind) != BACKEND} == set(INSISTING)
    for name in AS_IT_STANDS[2:]:
        assert tokenization_auto.tokenizer_class_from_name(name) is transformers.TokenizersBackend


def test_special_tokens_beyond_the_vocabulary_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gemma 3's text models have an id less than their tokenizer, which has one of images."""
    made = gemma()
    size = made[0].get_vocab_size()
    made[0].add_special_tokens(["<image_soft_token>"])
    hf = directory(tmp_path / "hf", made, "gemma3_text", size, image_token="<image_soft_token>")
    import_(compose("import", [f"hf={hf}", f"out={tmp_path}/run"]))
    assert f"name <image_soft_token>, which the model's vocabulary of {size} lacks" in capsys.readouterr().out
    _, ours = gptlab.load(tmp_path / "run")
    same(ours, transformers.AutoTokenizer.from_pretrained(hf))
    assert ours.n_vocab == size
    made[0].add_tokens(["<text>"])
    write(hf, made)
    with pytest.raises(UserError, match=f"its tokenizer has {size + 2} tokens, its model {size}"):
        read_tokenizer(hf, {"model_type": "gemma3_text", "vocab_size": size})


@pytest.mark.parametrize("adds", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
@pytest.mark.parametrize("name", ["GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"])
def test_two_files_without_a_tokenizer_json(name: str, adds: dict[str, Any], tmp_path: Path) -> None:
    """OPT's shape: vocab.json and merges.txt, and bos before a text because tokenizer_config.json says so."""
    made = bloom()
    write(tmp_path, made, tokenizer_class=name, **adds)
    read = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(read["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in read["merges"]))
    hf = {"model_type": "opt", "vocab_size": 400}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    ours, _ = read_tokenizer(tmp_path, hf)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    same(ours, theirs)
    assert ours.declared.adds_bos == bool(adds) == (theirs.encode("a")[0] == theirs.bos_token_id)


def test_ids_that_a_class_changes_are_said(tmp_path: Path) -> None:
    """GPT-2's class composes no letters; StarCoder's digits come out one by one, since no token has two of them."""
    line = "transformers 5 reads its tokenizer as a GPT2Tokenizer, which gives other ids than its tokenizer.json"
    for made, said in ((gpt_neox(), [line]), (digits(), [])):
        write(tmp_path, made, tokenizer_class="GPT2Tokenizer")
        assert read_tokenizer(tmp_path, {"model_type": "llama", "vocab_size": 400})[1] == said
        assert read_tokenizer(tmp_path, {"model_type": "granite", "vocab_size": 400})[1] == []
