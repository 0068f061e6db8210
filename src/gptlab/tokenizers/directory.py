"""Read the tokenizer of a Hugging Face directory: the tokenizer.json that its files come to, and what they declare."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, read_object
from gptlab.tokenizers.base import EOT, MOST_BYTES, Declared, Tokenizer
from gptlab.tokenizers.bpe import BytePairTokenizer, from_gpt2_vocab
from gptlab.tokenizers.hf import JSONTokenizer
from gptlab.tokenizers.letters import byte_of_letter
from gptlab.tokenizers.torture import same_ids

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
AS_IT_STANDS = ("", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GPT2_END = {"bos_token": EOT, "eos_token": EOT, "unk_token": EOT}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Definition = dict[str, Any]


def read_tokenizer(source: Path, hf: dict[str, Any]) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer of a directory with the config.json `hf`, as transformers 5 reads it.

    Returns also lines that are to be said of it. Raises UserError where it cannot be read exactly.
    """
    settings = _settings(source)
    definition, named = _definition(source, hf, settings)
    made, text = _with_added_tokens(source, definition, settings, named)
    n_vocab = max(made.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    why = f"its tokenizer has {n_vocab} tokens, its model {hf['vocab_size']}"
    require(n_vocab <= hf["vocab_size"], "hf", source, why, "take the tokenizer that belongs to it")
    said: list[str] = []
    declared = _declared(source, hf, made, named, said)
    declared = _templates(source, settings, declared)
    eot = declared.bos if declared.bos is not None else next(iter(declared.ends), None)
    if not declared.ends:
        said.append("its files declare no id that ends a text: a text ends after max_new_tokens only")
    if eot is None:
        why, todo = (
            "declares no bos and no eos, so nothing can stand before a text",
            "name one in tokenizer_config.json",
        )
        require(n_vocab < hf["vocab_size"], "hf", source, why, todo)
        eot = n_vocab  # a row of the embedding that no text uses
        said.append(f"its files declare no bos and no eos: id {eot}, which no text has, stands before a document")
    served = _served_by_tiktoken(json.loads(text), eot, made)
    if served is not None:
        usual = (declared.bos, declared.ends, declared.adds_bos, declared.pad) == (eot, (eot,), False, None)
        served.declare(Declared(chat_template=declared.chat_template) if usual else declared)
        return served, said
    tokenizer = JSONTokenizer(text, eot)
    tokenizer.declare(declared)
    return tokenizer, said


def _settings(source: Path) -> dict[str, Any]:
    """Return tokenizer_config.json; what special_tokens_map.json says counts only where it lists no added tokens."""
    settings = _object(source / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings |= _object(source / "special_tokens_map.json")
    why, todo = "its tokenizer is a program (auto_map), which is not run", "save it as tokenizer.json"
    require("auto_map" not in settings, "hf", source, why, todo)
    return settings


def _definition(source: Path, hf: dict[str, Any], settings: dict[str, Any]) -> tuple[Definition, dict[str, str | None]]:
    """Return the tokenizer.json by which text is encoded, and the names of the special tokens.

    Some classes of transformers take the vocabulary from the file, and all else from what the class itself is.
    """
    usual = "GPT2Tokenizer" if hf["model_type"] == "gpt2" else ""
    name = str(settings.get("tokenizer_class") or hf.get("tokenizer_class") or usual).removesuffix("Fast")
    path, read = source / "tokenizer.json", None
    if path.is_file():
        read = _object(path)
        why, todo = "is not a tokenizer.json", "give one that `tokenizers` has written"
        require(isinstance(read.get("model"), dict), "hf", path, why, todo)
        if name == "LlamaTokenizer" and '"ByteLevel"' in json.dumps(read):
            name = ""  # Llama 3 names the class of Llama 2, and is not one
    elif name == "GPT2Tokenizer" and (source / "vocab.json").is_file():
        read = {"model": {"vocab": _object(source / "vocab.json"), "merges": _merges(source / "merges.txt")}}
    todo = "give a directory with its tokenizer; AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
    if read is None:
        raise UserError("hf", source, "has no tokenizer.json", todo)
    if name in AS_IT_STANDS or name + "Fast" in AS_IT_STANDS:
        return read, {key: _name(settings.get(key)) for key in NAMED}
    if name not in CLASSES:
        raise UserError("tokenizer_class", name, "is not known here", "save its tokenizer as a PreTrainedTokenizerFast")
    parts, names = CLASSES[name](settings)
    made = {**read["model"], **parts.pop("model")}
    empty: Definition = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    rebuilt = {**empty, "post_processor": read.get("post_processor"), **parts, "model": made}
    settings.setdefault("added_tokens_decoder", {str(t["id"]): t for t in read.get("added_tokens") or []})
    return rebuilt, {key: _name(settings.get(key, names.get(key))) for key in NAMED}


def _bpe(**options: Any) -> dict[str, Any]:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    return {"type": "BPE", **plain, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **options}


def _gpt2(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    before = {**BYTE_LEVEL, "add_prefix_space": bool(settings.get("add_prefix_space"))}
    return {"normalizer": None, "pre_tokenizer": before, "decoder": BYTE_LEVEL, "model": _bpe()}, GPT2_END


def _qwen2(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    after = {**BYTE_LEVEL, "add_prefix_space": bool(settings.get("add_prefix_space")), "use_regex": False}
    before = {"type": "Sequence", "pretokenizers": [split, after]}
    parts = {"normalizer": {"type": "NFC"}, "pre_tokenizer": before, "decoder": BYTE_LEVEL, "model": _bpe()}
    return parts, {"eos_token": EOT, "pad_token": EOT, "unk_token": EOT}


def _llama(settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    prefix = settings.get("add_prefix_space") is not False
    scheme = "never" if not prefix else "always" if settings.get("legacy") else "first"
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    parts = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _bpe(fuse_unk=True, byte_fallback=True),
    }
    return parts, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


CLASSES: dict[str, Callable[[dict[str, Any]], tuple[Definition, dict[str, str]]]] = {
    "GPT2Tokenizer": _gpt2,
    "LlamaTokenizer": _llama,
    "Qwen2Tokenizer": _qwen2,
}


def _with_added_tokens(
    source: Path, definition: Definition, settings: dict[str, Any], named: dict[str, str | None]
) -> tuple[Any, str]:
    """Return the tokenizer with the tokens that tokenizer_config.json adds, and its definition as text."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as HFTokenizer

    text = json.dumps(definition, ensure_ascii=False)
    try:
        made = HFTokenizer.from_str(text)
        known = {each.content for each in made.get_added_tokens_decoder().values()}
        listed = sorted((settings.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
        keys = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        more = [AddedToken(**{k: v for k, v in each.items() if k in keys}) for _, each in listed]
        more = [each for each in more if each.content not in known]
        known |= {each.content for each in more}
        extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
        names = [*(name for name in named.values() if name), *map(_name, extra if isinstance(extra, list) else ())]
        for name in dict.fromkeys(name for name in names if name):
            if name not in known:
                more.append(AddedToken(name, special=True, normalized=False))
        if more:
            made.add_tokens(more)
            text = made.to_str()
        made.no_truncation()
        made.no_padding()
    except Exception as error:  # the library raises bare ones
        why = f"its tokenizer cannot be read ({reason(error)})"
        raise UserError("hf", source, why, "give a directory whose tokenizer `tokenizers` can load") from error
    return made, text


def _declared(source: Path, hf: dict[str, Any], made: Any, named: dict[str, str | None], said: list[str]) -> Declared:
    """Return the ids of the special tokens: the tokenizer's own, and every end that the model's configs name."""
    ids = {key: None if name is None else made.token_to_id(name) for key, name in named.items()}
    special = {i for i, token in made.get_added_tokens_decoder().items() if token.special}
    if ids["bos_token"] is None and not any(named.values()) and hf.get("bos_token_id") in special:
        ids["bos_token"] = hf["bos_token_id"]  # there is nothing but tokenizer.json to say it
    generation = _object(source / "generation_config.json")
    asked = [ids["eos_token"], *_several(generation.get("eos_token_id")), *_several(hf.get("eos_token_id"))]
    ends = list(dict.fromkeys(each for each in asked if each is not None))
    beyond = [each for each in ends if not 0 <= each < hf["vocab_size"]]
    if beyond:
        said.append(f"its files name {beyond} as an end, which is not in the model's vocabulary of {hf['vocab_size']}")
    whole = made.encode("a", add_special_tokens=True)
    marked = zip(whole.ids, whole.special_tokens_mask, strict=True)
    before = [i for i, _ in itertools.takewhile(lambda each: each[1], marked)]
    bos = ids["bos_token"]
    why = f"puts the ids {before} before a text, of which bos={bos} is not the only one"
    require(before in ([], [bos]), "hf", source, why, "give a tokenizer that puts bos there, or nothing")
    ends = [each for each in ends if each not in beyond]
    return Declared(bos, bool(before), tuple(ends), ids["pad_token"], ids["unk_token"])


def _templates(source: Path, settings: dict[str, Any], declared: Declared) -> Declared:
    """Add the chat templates: files of their own count before tokenizer_config.json, as in transformers."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {str(each["name"]): str(each["template"]) for each in found}
    files = {"default": source / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((source / "additional_chat_templates").glob("*.jinja"))}
    own = {name: read_bounded(path, 1 << 24).decode() for name, path in files.items() if path.is_file()}
    if not own and not found and (source / "chat_template.json").is_file():
        found = _object(source / "chat_template.json").get("chat_template")
    if own:
        found = own["default"] if list(own) == ["default"] else own
    known = found is None or isinstance(found, str | dict)
    require(known, "hf", source, "its chat_template is neither text nor a list", "correct tokenizer_config.json")
    ids = (declared.bos, declared.adds_bos, declared.ends, declared.pad, declared.unk)
    return Declared(*ids, found)


def _served_by_tiktoken(definition: Definition, eot: int, made: Any) -> BytePairTokenizer | None:
    """Return the same tokenizer served by tiktoken, which is faster; None where it would not be the same.

    It has to be what tiktoken does, GPT-2's words and byte pairs with one special token behind them, and to give the
    same ids on a text made to tell tokenizers apart.
    """
    model, added = definition["model"], definition.get("added_tokens") or []
    before, after = definition.get("pre_tokenizer") or {}, definition.get("decoder") or {}
    plain = {key: before.get(key) for key in ("type", "add_prefix_space", "use_regex")}
    vocab: dict[str, int] = model.get("vocab") or {}
    fits = (
        model.get("type") == "BPE"
        and not any(model.get(key) for key in ("dropout", "byte_fallback", "ignore_merges"))
        and not any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        and definition.get("normalizer") is None
        and plain == {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        and after.get("type") == "ByteLevel"
        and all((each["id"], each["content"], each["special"]) == (eot, EOT, True) for each in added)
        and sorted(vocab.values()) == list(range(len(vocab)))
        and eot == len(vocab) - (EOT in vocab)
        and vocab.get(EOT, eot) == eot
        and set(byte_of_letter()) <= set(vocab)
        and _merged_in_order(vocab, model.get("merges") or [])
    )
    if not fits:
        return None
    try:
        served = from_gpt2_vocab(vocab)
    except (KeyError, ValueError):  # a token that is not written in GPT-2's letters
        return None
    made.encode_special_tokens = True
    same = same_ids(served.encode, lambda text: made.encode(text, add_special_tokens=False).ids)
    return served if same else None


def _merged_in_order(vocab: dict[str, int], merges: list[Any]) -> bool:
    """Tell whether every token of two or more letters is made by one merge, and an earlier merge has the smaller id."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    made = [vocab.get("".join(pair), -1) for pair in pairs]
    return made == sorted(i for token, i in vocab.items() if len(token) > 1 and token != EOT)


def _merges(path: Path) -> list[list[str]]:
    lines = _bytes(path).decode("utf-8", "replace").split("\n")
    return [line.split() for line in lines if line.strip() and not line.startswith("#version")]


def _name(token: Any) -> str | None:
    """Return the text of a special token, which is a string or an object with its `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _several(ids: Any) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is no such file."""
    return read_object("hf", path, MOST_BYTES, "give a whole directory") if path.exists() else {}


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise UserError("hf", path, f"cannot be read ({reason(error)})", "give a whole directory") from error
