"""Small Hugging Face directories of every kind, written by transformers and tokenizers themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from gptlab.tokenizers import EOT
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = (
    "I had always thought Jack Gisburn rather a cheap genius, though a good fellow enough. It was no great surprise.\n"
)
BYTES = "caf\u00e9 \u5317\u4eac \U0001f408  two  spaces\n\ttab"
TRAINING = [TEXT * 3, "My lord, the world says hello.\n" * 3]


def byte_level(
    special: Sequence[str] = (EOT,), prefix: bool = False, normalizer: Any = None, first: bool = True
) -> Any:
    """GPT-2's kind; its special tokens are the first ids or, with one merge more, the last."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()
    if normalizer is not None:
        raw.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(special) if first else [], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TRAINING, trainer)
    names = {"bos_token": EOT, "eos_token": EOT, "unk_token": EOT} if EOT in special else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def metaspace(special_bytes: bool = True) -> Any:
    """Llama 2's kind: SentencePiece's spaces, bytes for what is not in the vocabulary, and bos before every text."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    of_bytes = [f"<0x{i:02X}>" for i in range(256)]
    special = ["<unk>", "<s>", "</s>", *of_bytes]
    raw.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    if not special_bytes:
        import json

        plain = json.loads(raw.to_str())
        plain["added_tokens"] = plain["added_tokens"][:3]
        raw = Tokenizer.from_str(json.dumps(plain))
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def gpt2(tokenizer: Any, n_vocab: int = 0) -> Any:
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    config = transformers.GPT2Config(
        vocab_size=n_vocab or len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama(tokenizer: Any, n_vocab: int = 0, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=n_vocab or len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **more},
    )
    made = transformers.LlamaForCausalLM(config).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
