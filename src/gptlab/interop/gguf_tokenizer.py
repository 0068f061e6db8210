"""Describe a tokenizer in the fields of a GGUF file; only what llama.cpp encodes in the same way is written."""

import json
from typing import Any

from gptlab.errors import require
from gptlab.interop.exporting import special_ids
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.letters import byte_of_letter

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
ENDS = ("eos", "eot", "eom")  # the fields of ids that end a text
ADVICE = "gguf files are written for byte pairs in GPT-2's words, such as those of tokenizer=bpe"


def tokenizer_fields(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """Return the fields of a tokenizer: byte pairs in GPT-2's words; raises UserError for any other.

    Ids of the model without a token are unused ones.
    """
    definition = json.loads(tokenizer.hf_definition())
    _require_gpt2_words(definition, type(tokenizer).__name__)
    vocab: dict[str, int] = definition["model"]["vocab"]
    tokens = {i: (token, NORMAL) for token, i in vocab.items()}
    for each in definition.get("added_tokens") or []:
        tokens[each["id"]] = each["content"], CONTROL if each["special"] else USER_DEFINED
    every = [tokens.get(i, (f"[UNUSED{i}]", UNUSED)) for i in range(vocab_size)]
    ids, ends = special_ids(tokenizer), tokenizer.ends
    why = f"names {len(ends)} ids that end a text, and llama.cpp knows {len(ENDS)}"
    require(len(ends) <= len(ENDS), "run", "its tokenizer", why, "export it with format=hf")
    special = {"bos": ids["bos_token_id"], "padding": ids.get("pad_token_id"), **dict(zip(ENDS, ends, strict=False))}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in every],
        "tokenizer.ggml.token_type": [kind for _, kind in every],
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{key}_token_id": i for key, i in special.items() if i is not None},
        "tokenizer.ggml.add_bos_token": tokenizer.declared.adds_bos,
        "tokenizer.ggml.add_eos_token": False,
        **_templates(tokenizer),
    }


def _require_gpt2_words(definition: dict[str, Any], name: str) -> None:
    """Refuse a tokenizer.json that is not byte pairs in the words of GPT-2, or has none."""
    model, before = definition["model"], definition.get("pre_tokenizer") or {}
    plain = (
        *("unk_token", "dropout", "byte_fallback", "ignore_merges"),
        *("continuing_subword_prefix", "end_of_word_suffix"),
    )
    words = [before.get(key) for key in ("type", "add_prefix_space", "use_regex")] == ["ByteLevel", False, True]
    fits = model["type"] == "BPE" and not any(model.get(key) for key in plain) and words
    fits = fits and definition.get("normalizer") is None and set(byte_of_letter()) <= set(model["vocab"])
    require(fits, "run", "its tokenizer", f"is a {name}, which llama.cpp would read in another way", ADVICE)
    require(bool(model["merges"]), "run", "its tokenizer", "merges no bytes, which llama.cpp cannot read", ADVICE)


def _templates(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the chat templates: the one named default, or the only one, and the others by their names."""
    found = tokenizer.declared.chat_template
    named = {"default": found} if isinstance(found, str) else dict(found or {})
    others = [name for name in named if name != "default"]
    fields: dict[str, Any] = {f"tokenizer.chat_template.{name}": named[name] for name in others}
    if others:
        fields["tokenizer.chat_templates"] = others
    return {**({"tokenizer.chat_template": named["default"]} if "default" in named else {}), **fields}
