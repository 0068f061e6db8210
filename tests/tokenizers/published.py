"""Small tokenizer directories in the shape in which families are published: tokenizer.json and tokenizer_config.json."""

import json
from pathlib import Path
from typing import Any

from tests.tokenizers.directories import TRAINING
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

EOT = "<|endoftext|>"
TEXTS = [*TRAINING, "def f(x):\n    return 12345 + x\n\n\n", "caf\u00e9 \u5317\u4eac, two  spaces; 2024! \u0939\u093f."]
WORDS = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"  # Bloom's
RUNS = ["  ", "   ", "    ", "\t\t"]  # tokens of their own in GPT-NeoX, CodeGen and Gemma


def _byte_level(special: list[str], **parts: Any) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=True)
    for name, part in parts.items():
        setattr(raw, name, part)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXTS, trainer)
    return raw


def gemma() -> tuple[Tokenizer, dict[str, Any]]:
    """Bytes for what the vocabulary lacks, spaces as U+2581, bos by a template, runs of spaces and lines as tokens."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # so that words are learned
    of_bytes = [f"<0x{i:02X}>" for i in range(256)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*special, *of_bytes], show_progress=False)
    raw.train_from_iterator(TEXTS, trainer)
    plain = json.loads(raw.to_str())
    plain["added_tokens"] = plain["added_tokens"][:5]
    raw = Tokenizer.from_str(json.dumps(plain))
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    raw.add_tokens([AddedToken(each, normalized=False) for each in ("\n\n", "\n\n\n", "\u2581\u2581", "<table>")])
    raw.add_tokens([AddedToken(f"<{each}_of_turn>", special=True, normalized=False) for each in ("start", "end")])
    names = {f"{each}_token": f"<{each}>" for each in ("bos", "eos", "pad", "unk")}
    more = {"add_bos_token": True, "add_eos_token": False, "additional_special_tokens": ["<start_of_turn>"]}
    return raw, {"tokenizer_class": "GemmaTokenizer", "spaces_between_special_tokens": False, **names, **more}


def gpt_neox() -> tuple[Tokenizer, dict[str, Any]]:
    """Bytes of GPT-2's words behind NFC, and runs of spaces behind the vocabulary."""
    raw = _byte_level([EOT, "<|padding|>"], normalizer=normalizers.NFC())
    raw.add_tokens([AddedToken(each, normalized=True) for each in RUNS])
    names = {f"{each}_token": EOT for each in ("bos", "eos", "unk")}
    return raw, {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, **names}


def codegen() -> tuple[Tokenizer, dict[str, Any]]:
    """GPT-2's, with runs of spaces and tabs behind the vocabulary."""
    raw = _byte_level([EOT], post_processor=processors.ByteLevel(trim_offsets=False))
    raw.add_tokens([AddedToken(each, normalized=True) for each in RUNS])
    names = {f"{each}_token": EOT for each in ("bos", "eos", "unk")}
    return raw, {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False, **names}


def bloom() -> tuple[Tokenizer, dict[str, Any]]:
    """Bytes of words by a pattern of its own."""
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    after = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw = _byte_level(["<unk>", "<s>", "</s>", "<pad>"], pre_tokenizer=pre_tokenizers.Sequence([split, after]))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return raw, {"tokenizer_class": "BloomTokenizerFast", "add_prefix_space": False, **names}


def digits() -> tuple[Tokenizer, dict[str, Any]]:
    """StarCoder's, Granite's and SmolLM's: each digit by itself, under the name of GPT-2's class."""
    single = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw = _byte_level([EOT, "<fim_prefix>"], pre_tokenizer=single)
    names = {f"{each}_token": EOT for each in ("bos", "eos", "unk")}
    return raw, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **names}


def write(folder: Path, made: tuple[Tokenizer, dict[str, Any]], **changes: Any) -> None:
    """Write the two files of a tokenizer, whose added tokens both list, as transformers 4 does."""
    raw, settings = made
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = raw.get_added_tokens_decoder()
    listed = {str(i): {key: getattr(each, key) for key in keys} for i, each in added.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(raw.to_str())
    config = {"added_tokens_decoder": listed, "model_max_length": 64, **settings, **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
