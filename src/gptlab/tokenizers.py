"""Text to token ids and back.

Three of the four options are byte-pair encodings, all served by `tiktoken`: GPT-2's own, one trained on the corpus, and
plain bytes (no pair merged). The fourth has one token a character.
"""

import base64
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiktoken
from tiktoken_ext import openai_public

from gptlab.errors import UserError, require

EOT = "<|endoftext|>"  # stands before every document
UNKNOWN = "<|unknown|>"  # a character that the training text does not have
GPT2_SPLIT = openai_public.r50k_pat_str  # GPT-2's words: the pieces in which bytes are merged


class Tokenizer(ABC):
    """Ids are 0 .. n_vocab-1; `eot` separates documents. Text that spells a special token is ordinary text."""

    n_vocab: int
    eot: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding: `ranks` gives each token's id, the smaller the earlier it is merged."""

    def __init__(self, ranks: dict[bytes, int], split: str = GPT2_SPLIT) -> None:
        self.ranks, self.split = ranks, split
        self.eot = len(ranks)
        self.n_vocab = len(ranks) + 1
        self.encoding = tiktoken.Encoding(
            "gptlab", pat_str=split, mergeable_ranks=ranks, special_tokens={EOT: self.eot}
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encoding.encode_ordinary_batch(list(texts))

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.encoding.decode_bytes(ids)

    def vocab_and_merges(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The same encoding as GPT-2's files have it: ids by letters, and which two tokens each one was merged from."""
        letter_of = {byte: letter for letter, byte in _byte_of_letter().items()}
        spelled = {token: "".join(letter_of[b] for b in token) for token in self.ranks}
        merges = [
            (spelled[left], spelled[right])
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
            if len(token) > 1
            for left, right in [self._merged_from(token, rank)]
        ]
        return {spelled[token]: rank for token, rank in self.ranks.items()}, merges

    def _merged_from(self, token: bytes, rank: int) -> tuple[bytes, bytes]:
        """Encode the token with all earlier merges: two parts are left."""
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [self.ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts[0], parts[1]

    def save(self, folder: Path) -> None:
        """`ranks.tiktoken` is tiktoken's own format: a token in base64 and its id on each line."""
        lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in self.ranks.items()]
        (folder / "ranks.tiktoken").write_text("".join(lines))
        (folder / "tokenizer.json").write_text(json.dumps({"kind": "byte_pair", "split": self.split}))


class CharTokenizer(Tokenizer):
    """One id a character; a character not in `characters` becomes UNKNOWN and comes back as U+FFFD."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.ids = {c: i for i, c in enumerate(characters)}
        self.eot, self.unknown = len(characters), len(characters) + 1
        self.n_vocab = len(characters) + 2
        self.pieces = [*characters, EOT, "\ufffd"]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.ids.get(c, self.unknown) for c in text] for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return "".join(self.pieces[i] for i in ids).encode()

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps({"kind": "char", "characters": self.characters}))


class JSONTokenizer(Tokenizer):
    """Any Hugging Face tokenizer.json, as it stands; `eot` is the id that ends a document."""

    def __init__(self, definition: str, eot: int) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        self.definition, self.eot = definition, eot
        self.tokenizer = HFTokenizer.from_str(definition)
        self.n_vocab = self.tokenizer.get_vocab_size(with_added_tokens=True)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False).encode()

    def save(self, folder: Path) -> None:
        saved = {"kind": "json", "eot": self.eot, "definition": self.definition}
        (folder / "tokenizer.json").write_text(json.dumps(saved))


def from_gpt2_vocab(vocab: dict[str, int]) -> BytePairTokenizer:
    """GPT-2's vocab.json: letters for bytes, ids in the order of merging."""
    byte_of = _byte_of_letter()
    ranks = {bytes(byte_of[letter] for letter in token): i for token, i in vocab.items() if token != EOT}
    return BytePairTokenizer(dict(sorted(ranks.items(), key=lambda item: item[1])))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote."""
    saved = json.loads((folder / "tokenizer.json").read_text())
    if saved["kind"] == "char":
        return CharTokenizer(saved["characters"])
    if saved["kind"] == "json":
        return JSONTokenizer(saved["definition"], saved["eot"])
    lines = (folder / "ranks.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines)
    return BytePairTokenizer({base64.b64decode(token): int(rank) for token, rank in pairs}, saved["split"])


# --- the options of the config group `tokenizer`, each of which builds its tokenizer from the training text


@dataclass
class BPE:
    """Byte-pair encoding trained on the text (Sennrich et al. 2016); `vocab_size` counts the special token."""

    vocab_size: int = 2048

    def __post_init__(self) -> None:
        require(
            self.vocab_size >= 257,
            "vocab_size",
            self.vocab_size,
            "is less than the 256 bytes and one document separator",
            "give at least 257, such as 4096",
        )

    def build(self, texts: Iterable[str]) -> Tokenizer:
        from tokenizers import Tokenizer as HFTokenizer
        from tokenizers import models, pre_tokenizers, trainers

        trained = HFTokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by GPT-2's pattern
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        trained.train_from_iterator(texts, trainer)
        return from_gpt2_vocab(trained.get_vocab())


@dataclass
class GPT2:
    """GPT-2's own 50,257 tokens, from OpenAI's file as `tiktoken` fetches, checks and caches it."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        try:
            published = openai_public.r50k_base()
        except (OSError, ValueError) as error:
            raise UserError(
                "tokenizer",
                "gpt2",
                f"GPT-2's vocabulary cannot be fetched ({type(error).__name__})",
                "connect once, or set TIKTOKEN_CACHE_DIR to a folder that has it, or use tokenizer=bpe",
            ) from error
        return BytePairTokenizer(published["mergeable_ranks"])


@dataclass
class Char:
    """One token for each character of the training text."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return CharTokenizer("".join(sorted(set().union(*texts))))


@dataclass
class Byte:
    """One token a byte of UTF-8."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return BytePairTokenizer({bytes([b]): b for b in range(256)}, split=r"[\s\S]")


@dataclass
class Saved:
    """The tokenizer of a run that exists already; `sha256` is of its files."""

    folder: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for path in sorted(Path(self.folder).glob("*")):
            digest.update(path.read_bytes())
        self.sha256 = digest.hexdigest()

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return load_tokenizer(Path(self.folder))


TokenizerConfig = BPE | GPT2 | Char | Byte | Saved


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the rest for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}
