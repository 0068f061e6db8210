"""Tokenizers of Hugging Face directories: ids, special tokens and templates as transformers reads the same files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gptlab
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.tokenizers import EOT, Tokenizer
from gptlab.tokenizers.bpe import BytePairTokenizer
from gptlab.tokenizers.hf import JSONTokenizer
from gptlab.tokenizers.torture import TEXTS
from gptlab.training.run import train
from tests.tokenizers.directories import BYTES, TEXT, byte_level, gpt2, llama, metaspace, saved
from tokenizers import normalizers


def imported(hf: Path, out: str = "run") -> Tokenizer:
    import_(compose("import", [f"hf={hf}", f"out={hf.parent / out}"]))
    return gptlab.load(hf.parent / out)[1]


def same_as_transformers(ours: Tokenizer, hf: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(hf)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ours.eot == (theirs.eos_token_id if theirs.bos_token_id is None else theirs.bos_token_id)


def rewritten(hf: Path, name: str, **changes: Any) -> None:
    found = json.loads((hf / name).read_text()) if (hf / name).exists() else {}
    (hf / name).write_text(json.dumps(found | changes))


KINDS: dict[str, Callable[[], Any]] = {
    "end last": lambda: byte_level(first=False),
    "end first": byte_level,
    "several in front": lambda: byte_level(("<pad>", "<mask>", EOT)),
    "prefix space": lambda: byte_level(prefix=True),
    "nfc": lambda: byte_level(normalizer=normalizers.NFC()),
    "lower case": lambda: byte_level(normalizer=normalizers.Lowercase()),
    "metaspace": metaspace,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [gpt2, llama])
def test_ids_are_transformers_own(kind: str, model: Callable[..., Any], tmp_path: Path) -> None:
    made = KINDS[kind]()
    hf = saved(tmp_path / "hf", model(made), made)
    ours = imported(hf)
    same_as_transformers(ours, hf)
    assert isinstance(ours, BytePairTokenizer if kind == "end last" else JSONTokenizer)
    assert ours.ends == (made.eos_token_id,)
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/back"]))
    same_as_transformers(ours, tmp_path / "back")
    theirs, back = (transformers.AutoTokenizer.from_pretrained(each) for each in (hf, tmp_path / "back"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(theirs, name) == getattr(back, name)
    assert back.encode("Hello world") == theirs.encode("Hello world")  # with bos where the tokenizer puts it there
    assert {oct(path.stat().st_mode)[-3:] for path in (tmp_path / "back").iterdir()} == {"644"}


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("end first", "GPT2Tokenizer", {}),
        ("end first", "GPT2TokenizerFast", {"add_prefix_space": True}),
        ("nfc", "GPT2Tokenizer", {}),  # transformers 5 leaves the normalizer out
        ("metaspace", "LlamaTokenizer", {}),
        ("metaspace", "LlamaTokenizerFast", {"legacy": True}),
        ("metaspace", "LlamaTokenizer", {"add_prefix_space": False}),
        ("end first", "LlamaTokenizer", {}),  # byte-level: taken as it stands
        ("end first", "Qwen2Tokenizer", {}),
    ],
)
def test_classes_that_transformers_builds_anew(kind: str, name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    made = KINDS[kind]()
    hf = saved(tmp_path / "hf", llama(made), made)
    rewritten(hf, "tokenizer_config.json", tokenizer_class=name, **settings)
    same_as_transformers(imported(hf), hf)


def test_gpt2_s_own_two_files(tmp_path: Path) -> None:
    made = byte_level(first=False)
    hf = saved(tmp_path / "hf", gpt2(made), made)
    model = json.loads((hf / "tokenizer.json").read_text())["model"]
    vocab = model["vocab"] | {EOT: len(model["vocab"])}
    (hf / "vocab.json").write_text(json.dumps(vocab))
    (hf / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (hf / name).unlink()
    ours = imported(hf)
    same_as_transformers(ours, hf)
    assert isinstance(ours, BytePairTokenizer) and ours.ends == (len(vocab) - 1,)


def test_tokens_that_tokenizer_config_adds(tmp_path: Path) -> None:
    made = byte_level()
    hf = saved(tmp_path / "hf", gpt2(made, n_vocab=len(made) + 2), made)
    token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    listed = {
        str(len(made)): {"content": "world", "special": False, **token},
        str(len(made) + 1): {"content": "<|im_end|>", "special": True, **token},
    }
    rewritten(hf, "tokenizer_config.json", added_tokens_decoder=listed, eos_token="<|im_end|>")
    ours = imported(hf)
    theirs = transformers.AutoTokenizer.from_pretrained(hf)
    assert ours.encode("Hello world") == theirs.encode("Hello world") and len(made) in ours.encode("Hello world")
    assert ours.ends == (len(made) + 1, 0)  # the tokenizer's own, and the model's


def test_every_declared_end_ends_a_text_and_bos_is_before_it(tmp_path: Path) -> None:
    made = metaspace()
    free = llama(made)
    prompt = made.encode("My lord")
    drawn = free.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=0)[0].tolist()
    assert prompt[0] == made.bos_token_id == 1
    new = drawn[len(prompt) :]
    hf = saved(tmp_path / "hf", llama(made, eos_token_id=[2, new[5]]), made)
    ours = imported(hf)
    assert ours.ends == (2, new[5]) and ours.start == [1] and ours.eot == 1
    ask = [f"run={tmp_path}/run", "prompt=My lord", "decoder=greedy", "max_new_tokens=12"]
    found = sample(compose("sample", ask))["samples"][0]
    expected = new[: new.index(new[5])]
    assert found["ids"] == expected
    whole = made.decode(prompt + expected, skip_special_tokens=True)
    assert "My lord" + found["text"] == whole  # the first space of a continuation is not lost
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/back"]))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "back")
    assert (config.bos_token_id, config.eos_token_id) == (1, [2, new[5]])


def test_no_declared_end_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = byte_level(())
    hf = saved(tmp_path / "hf", llama(made, n_vocab=len(made) + 1, bos_token_id=None, eos_token_id=None), made)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (hf / name).unlink(missing_ok=True)
    ours = imported(hf)
    said = capsys.readouterr().out
    assert "no id that ends a text" in said and f"id {len(made)}, which no text has" in said
    assert ours.eot == len(made)
    full = saved(tmp_path / "full", llama(made, bos_token_id=None, eos_token_id=None), made)
    (full / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="declares no bos and no eos"):
        imported(full, "other")


TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja", "several"])
def test_chat_templates_are_kept(where: str, tmp_path: Path) -> None:
    made = byte_level(first=False)
    if where == "chat_template.jinja":
        made.chat_template = TEMPLATE
    hf = saved(tmp_path / "hf", gpt2(made), made)
    if where == "tokenizer_config.json":
        rewritten(hf, where, chat_template=TEMPLATE)
    if where == "several":
        named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "tools"}]
        rewritten(hf, "tokenizer_config.json", chat_template=named)
    ours = imported(hf)
    assert isinstance(ours, BytePairTokenizer)
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/back"]))
    theirs, back = (transformers.AutoTokenizer.from_pretrained(each) for each in (hf, tmp_path / "back"))
    assert theirs.chat_template == back.chat_template is not None
    said = [{"role": "user", "content": "hello"}]
    assert back.apply_chat_template(said, tokenize=False) == "<user>hello"


@pytest.mark.slow
def test_what_is_declared_stays_through_fine_tuning(tiny: Callable[..., Any], tmp_path: Path) -> None:
    """Documents are learned between <s> and </s>; template and special tokens are exported again."""
    made = metaspace()
    made.chat_template = TEMPLATE
    hf = saved(tmp_path / "hf", llama(made), made)
    imported(hf, "base")
    train(tiny(f"init_from={tmp_path}/base", "data.packing=documents", "data.mask_documents=true"))
    _, ours = gptlab.load(tmp_path / "run")
    assert (ours.start, ours.ends, ours.declared.chat_template) == ([1], (2,), TEMPLATE)
    held = held_out_stream(tmp_path / "run/held_out")[0]
    ids, mask = held[:].tolist(), held.mask(slice(0, len(held)))
    assert ids[0] == 1 and mask is not None
    assert [i for i, counts in enumerate(mask) if not counts] == [i for i, token in enumerate(ids) if token == 1]
    assert all(ids[i - 1] == 2 for i, token in enumerate(ids) if token == 1 and i)  # </s> <s>
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/back"]))
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert back.chat_template == TEMPLATE and back.encode("My lord") == made.encode("My lord")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "back").eos_token_id == 2


def test_bytes_of_tokens_are_exact(tmp_path: Path) -> None:
    """Every text of metaspace and byte fallback is spelled to the byte, cut wherever it may be."""
    made = metaspace(special_bytes=False)
    ours = imported(saved(tmp_path / "hf", llama(made), made))
    for text in (TEXT, BYTES):
        ids = ours.encode(text)
        assert ours.decode_bytes(ids) == text.encode()
        pieces = [ours.decode_bytes([ids[0], each])[len(ours.decode_bytes(ids[:1])) :] for each in ids[1:]]
        assert b"".join([ours.decode_bytes(ids[:1]), *pieces]) == text.encode()


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "is a program"),
        ("tokenizer_config.json", {"tokenizer_class": "NougatTokenizer"}, "^tokenizer_class=NougatTokenizer: "),
        ("tokenizer.json", {"model": None}, r"is not a tokenizer\.json"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Guess"}}, "its tokenizer cannot be read"),
    ],
)
def test_what_is_not_understood_is_refused(name: str, changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    made = byte_level()
    hf = saved(tmp_path / "hf", gpt2(made), made)
    rewritten(hf, name, **changes)
    with pytest.raises(UserError, match=why) as raised:
        imported(hf)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()
