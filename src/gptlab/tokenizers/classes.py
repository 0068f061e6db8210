"""The tokenizer classes of transformers 5: which one reads a directory, and the tokenizer.json that each comes to.

A class with a constructor of its own takes vocabulary, merges and mostly the post-processor of a tokenizer.json,
and builds all else itself; the others take the file as it stands.
"""

from collections.abc import Callable
from typing import Any

from gptlab.tokenizers.base import EOT

Definition = dict[str, Any]

BACKEND = "TokenizersBackend"
AS_IT_STANDS = ("", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "BloomTokenizer", BACKEND)
# model_type -> the class that transformers takes where none is declared; a backend counts also where one is
REGISTERED = {
    **dict.fromkeys(("gpt2", "opt", "phi"), "GPT2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("gpt_neox", "olmo"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gpt_bigcode", "granite", "mistral", "olmo2", "phi3"), BACKEND),
}
INSISTING = ("qwen2",)  # the registered class, whatever is declared
OF_TWO_FILES = ("CodeGenTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer")  # vocab.json, merges.txt

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACED: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


def class_of(declared: str, model_type: str, byte_level: bool) -> str:
    """Return the class that reads a directory, without Fast; empty where its tokenizer.json is taken as it stands."""
    registered, name = REGISTERED.get(model_type, ""), declared.removesuffix("Fast")
    if model_type in INSISTING or not declared:
        name = registered
    llama3 = name == "LlamaTokenizer" and byte_level  # Llama 3 names the class of Llama 2, and is not one
    return "" if llama3 or registered == BACKEND or name in AS_IT_STANDS or name + "Fast" in AS_IT_STANDS else name


def _bpe(**options: Any) -> dict[str, Any]:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    return {"type": "BPE", **plain, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **options}


def _gpt2(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    before = {**BYTE_LEVEL, "add_prefix_space": bool(settings.get("add_prefix_space"))}
    parts = {"normalizer": None, "pre_tokenizer": before, "decoder": BYTE_LEVEL, "model": _bpe()}
    return parts, {"bos_token": EOT, "eos_token": EOT, "unk_token": EOT}


def _gpt_neox(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    parts, names = _gpt2(settings)
    own = {"normalizer": {"type": "NFC"}, "post_processor": None}
    return parts | own, names | {"pad_token": "<|padding|>"}


def _qwen2(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    after = {**BYTE_LEVEL, "add_prefix_space": bool(settings.get("add_prefix_space")), "use_regex": False}
    before = {"type": "Sequence", "pretokenizers": [split, after]}
    parts = {"normalizer": {"type": "NFC"}, "pre_tokenizer": before, "decoder": BYTE_LEVEL, "model": _bpe()}
    return parts, {"eos_token": EOT, "pad_token": EOT, "unk_token": EOT}


def _llama(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    prefix = settings.get("add_prefix_space") is not False
    scheme = "never" if not prefix else "always" if settings.get("legacy") else "first"
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    parts = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": SPACED + strip},
        "model": _bpe(fuse_unk=True, byte_fallback=True),
    }
    return parts, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _gemma(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    names = {f"{each}_token": f"<{each}>" for each in ("bos", "eos", "unk", "pad", "mask")}
    unknown = settings.get("unk_token", names["unk_token"])
    unknown = unknown["content"] if isinstance(unknown, dict) else unknown
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    parts = {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": split,
        "decoder": {"type": "Sequence", "decoders": SPACED},
        "model": _bpe(unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }
    return parts, names


# what a class makes of tokenizer_config.json: all but vocabulary and merges, and its usual special tokens
CLASSES: dict[str, Callable[[dict[str, Any]], tuple[Definition, dict[str, str]]]] = {
    "CodeGenTokenizer": _gpt2,
    "GPT2Tokenizer": _gpt2,
    "GPTNeoXTokenizer": _gpt_neox,
    "GemmaTokenizer": _gemma,
    "LlamaTokenizer": _llama,
    "Qwen2Tokenizer": _qwen2,
}


def rebuild(read: Definition, name: str, settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    """Return the tokenizer.json that the class `name` makes of one, and the names of its usual special tokens."""
    parts, names = CLASSES[name](settings)
    model = {**read["model"], **parts.pop("model")}
    empty: Definition = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    return {**empty, "post_processor": read.get("post_processor"), **parts, "model": model}, names
