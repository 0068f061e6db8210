"""Turn a data option into a corpus: survey, tokenizer, shards; each is made once and found again by its content."""

import codecs
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from gptlab.data.config import BatchConfig
from gptlab.data.text.sources import DataConfig, Mixture, TextData, TokenFiles, identity
from gptlab.data.tokens.encode import SECTION, Lines, Unit, jobs, write_sections
from gptlab.data.tokens.shards import (
    Shard,
    TokenStream,
    check,
    dtype_for,
    is_read,
    masks,
    own_shards,
    read_manifest,
    read_through,
)
from gptlab.data.tokens.surveys import Surveyed, Watch, counted, survey_all
from gptlab.data.tokens.token_copies import without_copies
from gptlab.data.tokens.token_files import cut, foreign_shards, spelled
from gptlab.data.tokens.workers import Workers, is_worth_it, workers
from gptlab.errors import require
from gptlab.files import cache_dir, new_folder, short, sync_files, write_atomically
from gptlab.registry import name_of
from gptlab.tokenizers import Tokenizer, TokenizerConfig, fingerprint, load_tokenizer
from gptlab.tokenizers.unspelled import Unspelled

LAYOUT = 2  # raise when the meaning of a cached folder changes
PARTS = ("train", "val")
COUNTS = ("documents", "bytes", "tokens")


@dataclass(frozen=True)
class Corpus:
    """Tokens for training, from one or more weighted sources, and held-out tokens, with a manifest of their text."""

    tokenizer: Tokenizer
    manifest: dict[str, Any]
    train: list[TokenStream]
    weights: list[float]
    val: TokenStream
    folders: list[Path]  # of shards, one per source
    notes: list[str] = field(default_factory=list)  # what should be said before it is used
    val_is_cut: bool = False  # the held-out documents are ends of documents, not whole ones
    val_parts: dict[str, tuple[TokenStream, int]] = field(
        default_factory=dict
    )  # of a mixture: what each holds out, and
    # the bytes that its targets spell

    def sizes(self) -> dict[str, dict[str, int | None]]:
        """Return the documents, bytes and tokens of each part."""
        return {part: {key: self.manifest[part][key] for key in COUNTS} for part in PARTS}

    @property
    def val_bytes(self) -> int:
        """The number of bytes that the held-out targets spell: the denominator of bits per byte."""
        found: int = target_counts(self.manifest["val"])[1]
        return found

    @functools.cached_property
    def unspelled(self) -> dict[str, Unspelled]:
        """The characters of each part that its tokens do not spell."""
        streams = {"train": self.train, "val": [self.val]}
        return {part: unspelled(self.manifest[part], streams[part], self.tokenizer) for part in PARTS}

    @property
    def bytes_per_target(self) -> float:
        """The mean number of bytes that a training target spells, by the weights of the sources.

        If the text of the training tokens is not known, the figure is that of a held-out target.
        """
        parts = [source["train"] for source in self.manifest.get("sources", {"": self.manifest}).values()]
        if any(part["bytes"] is None for part in parts):
            parts = [self.manifest["val"]] * len(parts)
        spelled = [size / max(targets, 1) for targets, size in map(target_counts, parts)]
        return sum(w * each for w, each in zip(self.weights, spelled, strict=True)) / sum(self.weights)

    def save_held_out(self, folder: Path) -> None:
        """Write val.bin, val.mask.bin where not all tokens count, and manifest.json (`held_out_stream` reads them)."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "val.bin").open("wb") as file:
            for block in self.val.blocks():
                file.write(block.astype(self.manifest["dtype"]).tobytes())
        if self.val.has_mask:
            with (folder / "val.mask.bin").open("wb") as file:
                for block in self.val.mask_blocks():
                    file.write(block.tobytes())
        manifest = {**self.manifest, "folders": [str(each) for each in self.folders]}
        write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2).encode())


def prepare(
    data: BatchConfig,
    config: TokenizerConfig,
    watch: Watch | None = None,
    processes: int | None = None,
    section: int = SECTION,
    parts: Sequence[str] = PARTS,
    any_ids: bool = False,
) -> Corpus:
    """Return the corpus of a data option under a tokenizer, which is trained on the training text if needed.

    `processes` encode (None: one per core), each shard holds about `section` characters, and only `parts` are made.
    `any_ids` accepts tokens that the tokenizer does not have, so that they can be looked at. Raises UserError if the
    text or the tokens are unusable.
    """
    todo = "choose an option that gives text, such as data=text"
    require(isinstance(data, DataConfig), "data", name_of(data), "gives no text", todo)
    assert isinstance(data, DataConfig)
    watch = watch or Watch()
    if isinstance(data, TokenFiles):
        return _ready(data, config, any_ids, "train" in parts)
    sources: dict[str, Any] = data.parts if isinstance(data, Mixture) else {"": data}
    weights = [float(data.weight(name)) for name in sources] if isinstance(data, Mixture) else [1.0]
    for name, source in sources.items():
        why = f"a {type(source).__name__} is no text"
        require(isinstance(source, TextData), f"data.parts.{name}", type(source).__name__.lower(), why, "leave it out")
    with workers(processes or os.cpu_count() or 1) as pool:
        surveyed = survey_all(sources, watch, pool)
        tokenizer = _tokenizer(surveyed, config, watch)
        folders = [_shards(text, tokenizer, watch, pool, section, parts) for text in surveyed]
        corpus = _corpus(folders, list(sources), weights, load_tokenizer(tokenizer), pool)
    manifests = corpus.manifest.get("sources", {"": corpus.manifest})
    notes = [note for text in surveyed for note in text.notes(manifests[text.name]["val"])]
    cut_up = any(text.found.cuts and not text.apart for text in surveyed)
    return dataclasses.replace(corpus, notes=notes, val_is_cut=cut_up)


def texts(data: DataConfig, corpus: Corpus) -> Iterator[str]:
    """Yield all of a data option's text again, in pieces; for tokens, the text that they spell."""
    if isinstance(data, TokenFiles):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for stream in [*corpus.train, corpus.val]:
            yield from (decoder.decode(piece) for piece in spelled(stream, corpus.tokenizer))
        return
    sources: list[Any] = list(data.parts.values()) if isinstance(data, Mixture) else [data]
    for source in sources:
        yield from (chunk.text for chunk in itertools.chain(source.chunks(), source.held_out() or []))


def _tokenizer(surveyed: list[Surveyed], config: TokenizerConfig, watch: Watch) -> Path:
    """Return the folder of the tokenizer, built on the training parts."""
    key = repr((LAYOUT, [text.split for text in surveyed], type(config).__name__, dataclasses.asdict(config)))
    folder = cache_dir() / "tokenizers" / short(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # all processes of a run come here; the first does the work
        if not folder.exists():
            size = sum(text.found.bytes for text in surveyed)
            watch.begin("building the tokenizer", size)
            every = (chunk for text in surveyed for part, chunk in text.divided() if part == "train")
            tokenizer = config.build((chunk.text for chunk in counted(every, watch)), size)
            with new_folder(folder) as work:
                tokenizer.save(work)
    return folder


def _shards(text: Surveyed, tokenizer: Path, watch: Watch, pool: Workers, section: int, parts: Sequence[str]) -> Path:
    """Return the folder of a source's shards: from the cache or written now, continuing where a killed run stopped."""
    source, found = text.source, text.found
    split = (source.version(), identity(source), *text.split[3:]) if text.apart else text.split[1:]
    key = repr((LAYOUT, found.sha256, split, fingerprint(tokenizer), *parts))
    folder = cache_dir() / "shards" / short(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            watch.begin("making tokens", found.bytes)
            loaded = load_tokenizer(tokenizer)
            kind, units = _units(text, loaded, parts)
            work = folder.with_name(f"{folder.name}.{section}{kind}.partial")
            work.mkdir(exist_ok=True)
            used = pool if is_worth_it(found.bytes, pool) else None
            sections = write_sections(work, units, (loaded, tokenizer), used, watch.advance, section)
            manifest = _manifest(text, loaded, fingerprint(tokenizer), sections)
            kept = {shard["file"].removesuffix(".bin") for part in PARTS for shard in manifest[part]["shards"]}
            for path in work.iterdir():  # records of sections, and leftovers of killed runs
                if path.is_file() and path.name.partition(".")[0] not in kept:
                    path.unlink()
            shutil.copytree(tokenizer, work / "tokenizer", dirs_exist_ok=True)
            write_atomically(work / "manifest.json", json.dumps(manifest, indent=2).encode())
            sync_files(work)
            work.rename(folder)
    return folder


def _units(text: Surveyed, tokenizer: Tokenizer, parts: Sequence[str]) -> tuple[str, Iterator[Unit]]:
    """Return a source's text as what is encoded at once, after a mark of how it is divided.

    A killed run goes on with what it has written of the same division.
    """
    spans = text.spans() if tokenizer.end_of_document is None else None  # else the first document differs
    if spans is not None:
        return "-spans", (Lines(span, held_out, frozenset(parts)) for span, held_out in spans)
    return "", jobs(((part, chunk) for part, chunk in text.divided() if part in parts), tokenizer)


def _manifest(
    text: Surveyed, tokenizer: Tokenizer, tokenizer_sha256: str, sections: list[dict[str, Any]]
) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        shards = [section[part] for section in sections if part in section]
        parts[part] = {**_totals(shards), "shards": shards}
    content = text.found.sha256
    if text.apart:  # the survey did not read it
        content = _hash([content, *_hashes(parts["val"]["shards"])])
    if text.left_out:
        content = _hash([content, *map(str, sorted(text.left_out))])
    return {
        "sha256": content,
        "source": identity(text.source),
        "tokenizer_sha256": tokenizer_sha256,
        "n_vocab": tokenizer.n_vocab,
        "eot": tokenizer.eot,
        "dtype": dtype_for(tokenizer.n_vocab),
        **parts,
    }


def _corpus(folders: list[Path], names: list[str], weights: list[float], tokenizer: Tokenizer, pool: Workers) -> Corpus:
    """Return what the folders hold, every shard found whole."""
    manifests = [read_manifest(folder) for folder in folders]
    shards: dict[str, list[list[Shard]]] = {part: [] for part in PARTS}
    for folder, manifest in zip(folders, manifests, strict=True):
        for part in PARTS:
            shards[part].append(own_shards(folder, manifest, part))
            records, n_vocab, found = manifest[part]["shards"], tokenizer.n_vocab, shards[part][-1]
            unread = [shard for shard in found if not is_read(shard)]
            if is_worth_it(sum(shard.path.stat().st_size for shard in unread), pool):
                list(pool.map(read_through, unread))
            check(found, n_vocab, [shard["sha256"] for shard in records])
            masked = [shard["mask_sha256"] for shard in records if "mask_sha256" in shard]
            check(masks(found), None, masked)
    manifest = manifests[0] if len(manifests) == 1 else _combined(manifests, names, weights)
    val = TokenStream([shard for each in shards["val"] for shard in each])
    each_val = zip(names, shards["val"], manifests, strict=True)
    parts = {name: (TokenStream(found), target_counts(one["val"])[1]) for name, found, one in each_val if name}
    train = [TokenStream(each) for each in shards["train"]]
    return Corpus(tokenizer, manifest, train, weights, val, folders, val_parts=parts)


def _combined(manifests: list[dict[str, Any]], names: list[str], weights: list[float]) -> dict[str, Any]:
    """Return the manifest of a mixture."""
    parts = {part: _totals([m[part] for m in manifests]) for part in PARTS}
    content = _hash([*(m["sha256"] for m in manifests), repr(weights)])
    common = {key: manifests[0][key] for key in ("tokenizer_sha256", "n_vocab", "eot", "dtype")}
    return {"sha256": content, "sources": dict(zip(names, manifests, strict=True)), **common, **parts}


def _ready(data: TokenFiles, config: TokenizerConfig, any_ids: bool, is_trained_on: bool) -> Corpus:
    """Return existing tokens as a corpus."""
    if data.folder is not None:
        folder = Path(data.folder).expanduser()
        why, todo = "is not a folder of tokens", "give one that `gptlab tokenize out=` has made"
        require((folder / "manifest.json").is_file(), "data.folder", data.folder, why, todo)
        return _corpus([folder], [""], [1.0], load_tokenizer(folder / "tokenizer"), Workers(1))
    tokenizer = config.build([])
    train = foreign_shards(data, "data.train", data.train, tokenizer)
    val = foreign_shards(data, "data.val", data.val, tokenizer) if data.val else []
    hashes = check([*train, *val], None if any_ids else tokenizer.n_vocab) + check(masks([*train, *val]), None)
    if not val:
        train, val = cut(train, data.val_fraction)
    kept, left_out = without_copies(train, val, tokenizer.eot) if is_trained_on else (train, 0)
    train = train if any_ids else kept
    streams = {"train": TokenStream(train), "val": TokenStream(val)}
    parts: dict[str, dict[str, Any]] = {}
    for part, stream in streams.items():
        documents = sum(int((block == tokenizer.eot).sum()) for block in stream.blocks())
        parts[part] = {"documents": max(1, documents), "bytes": None, "tokens": len(stream)}
        if stream.has_mask:
            parts[part]["targets"] = sum(int((block != 0).sum()) for block in stream.mask_blocks())
    parts["val"]["bytes"] = sum(map(len, spelled(streams["val"], tokenizer)))
    if streams["val"].has_mask:
        parts["val"]["target_bytes"] = sum(map(len, spelled(streams["val"], tokenizer, targets_only=True)))
    manifest = {
        "sha256": _hash([*hashes, str(data.val_fraction), *([f"without {left_out}"] if left_out else [])]),
        "n_vocab": tokenizer.n_vocab,
        "eot": tokenizer.eot,
        "dtype": dtype_for(tokenizer.n_vocab),
        **parts,
    }
    notes = [f"{left_out:,} documents are also held out: they are not trained on"] if left_out else []
    return Corpus(tokenizer, manifest, [streams["train"]], [1.0], streams["val"], [], notes, val_is_cut=not data.val)


def target_counts(part: dict[str, Any]) -> tuple[int, Any]:
    """Return the tokens of a manifest's part that count, and the bytes that they spell (None if unknown)."""
    return part.get("targets", part["tokens"]), part.get("target_bytes", part["bytes"])


def unspelled(part: dict[str, Any], streams: Sequence[TokenStream], tokenizer: Tokenizer) -> Unspelled:
    """Return how many characters of a manifest's part its tokens do not spell, unknown ones among them."""
    if "unspelled" in part or tokenizer.unknown is None:
        return Unspelled(int(part.get("unspelled", 0)), part.get("characters"))
    count = sum(int((block == tokenizer.unknown).sum()) for stream in streams for block in stream.blocks())
    return Unspelled(count, part.get("characters"))


def _totals(records: list[dict[str, Any]]) -> dict[str, int]:
    """Add up the counts of shards or parts; targets have counts of their own only if some tokens do not count."""
    totals = {key: sum(record[key] for record in records) for key in COUNTS}
    if any("targets" in record for record in records):
        totals["targets"], totals["target_bytes"] = map(sum, zip(*map(target_counts, records), strict=True))
    if all("characters" in record for record in records):
        totals["characters"] = sum(record["characters"] for record in records)
    if any("unspelled" in record for record in records):
        totals["unspelled"] = sum(record.get("unspelled", 0) for record in records)
    return totals


def _hashes(shards: list[dict[str, Any]]) -> list[str]:
    return [shard[key] for shard in shards for key in ("sha256", "mask_sha256") if key in shard]


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
