"""Read the tokenizer of a Hugging Face directory: the tokenizer.json that its files come to, and what they declare."""

import itertools
import json
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, read_object
from gptlab.tokenizers.base import EOT, MOST_BYTES, Declared, Tokenizer
from gptlab.tokenizers.bpe import BytePairTokenizer, from_gpt2_vocab
from gptlab.tokenizers.classes import BACKEND, CLASSES, OF_TWO_FILES, Definition, class_of, rebuild
from gptlab.tokenizers.hf import JSONTokenizer
from gptlab.tokenizers.letters import byte_of_letter
from gptlab.tokenizers.torture import same_ids

# as transformers orders them, which numbers those that a vocabulary lacks
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer(source: Path, hf: dict[str, Any]) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer of a directory with the config.json `hf`, as transformers 5 reads it.

    Returns also lines that are to be said of it. Raises UserError where it cannot be read exactly.
    """
    settings = _settings(source)
    said: list[str] = []
    definition, named = _definition(source, hf, settings, said)
    made, text = _with_added_tokens(source, definition, settings, named)
    made, text = _within(hf["vocab_size"], made, text, said)
    n_vocab = max(made.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    why = f"its tokenizer has {n_vocab} tokens, its model {hf['vocab_size']}"
    require(n_vocab <= hf["vocab_size"], "hf", source, why, "take the tokenizer that belongs to it")
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
        why, todo = "adds tokens in a way that only older versions of transformers write", "save it with a newer one"
        require(not _object(source / "added_tokens.json"), "hf", source / "added_tokens.json", why, todo)
    why, todo = "its tokenizer is a program (auto_map), which is not run", "save it as tokenizer.json"
    require("auto_map" not in settings, "hf", source, why, todo)
    return settings


def _definition(
    source: Path, hf: dict[str, Any], settings: dict[str, Any], said: list[str]
) -> tuple[Definition, dict[str, str | None]]:
    """Return the tokenizer.json by which text is encoded, and the names of the special tokens.

    Some classes of transformers take the vocabulary from the file, and all else from what the class itself is.
    """
    path, read = source / "tokenizer.json", None
    if path.is_file():
        read = _object(path)
        why, todo = "is not a tokenizer.json", "give one that `tokenizers` has written"
        require(isinstance(read.get("model"), dict), "hf", path, why, todo)
    byte_level = read is not None and '"ByteLevel"' in json.dumps(read)
    declared = str(settings.get("tokenizer_class") or hf.get("tokenizer_class") or "")
    name = class_of(declared, str(hf["model_type"]), byte_level)
    if read is None and name in OF_TWO_FILES and (source / "vocab.json").is_file():
        read = {"model": {"vocab": _object(source / "vocab.json"), "merges": _merges(source / "merges.txt")}}
    todo = "give a directory with its tokenizer; AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
    if read is None:
        raise UserError("hf", source, "has no tokenizer.json", todo)
    if not name:
        return read, _names(settings, {})
    if name not in CLASSES:
        raise UserError("tokenizer_class", name, "is not known here", "save its tokenizer as a PreTrainedTokenizerFast")
    rebuilt, names = rebuild(read, name, settings)
    if path.is_file() and not _same(read, rebuilt):
        said.append(f"transformers 5 reads its tokenizer as a {name}, which gives other ids than its tokenizer.json")
    settings.setdefault("added_tokens_decoder", {str(t["id"]): t for t in read.get("added_tokens") or []})
    return rebuilt, _names(settings, names)


def read_alike(definition: str, model_type: str) -> bool:
    """Tell whether transformers gives the ids of a tokenizer.json beside a model, whatever class is declared."""
    name, read = class_of(BACKEND, model_type, byte_level=True), json.loads(definition)
    return not name or _same(read, rebuild(read, name, {})[0])


def _same(a: Definition, b: Definition) -> bool:
    """Tell whether two tokenizer.json give the same ids, special tokens being text; not if one cannot be read."""
    from tokenizers import Tokenizer as HFTokenizer

    try:
        encoders = [HFTokenizer.from_str(json.dumps({**each, "added_tokens": []})) for each in (a, b)]
        first, second = (lambda text, by=by: by.encode(text, add_special_tokens=False).ids for by in encoders)
        return same_ids(first, second)
    except Exception:  # the library raises bare ones
        return False


def _names(settings: dict[str, Any], usual: dict[str, str]) -> dict[str, str | None]:
    """Return the names of the special tokens, also of those that a model has beside the usual ones."""
    more = [key for key in settings if key.endswith("_token") and isinstance(settings[key], str) and key not in NAMED]
    extra = settings.get("extra_special_tokens")
    found = {key: _name(settings.get(key, usual.get(key))) for key in (*NAMED, *more)}
    return found | ({key: _name(each) for key, each in extra.items()} if isinstance(extra, dict) else {})


def _with_added_tokens(
    source: Path, definition: Definition, settings: dict[str, Any], named: dict[str, str | None]
) -> tuple[Any, str]:
    """Return the tokenizer with the tokens that tokenizer_config.json adds, and its definition as text."""
    from tokenizers import AddedToken, processors
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
        if not (source / "tokenizer.json").is_file():  # whose post-processor would say it
            bos, eos = (named[f"{key}_token"] if settings.get(f"add_{key}_token") else None for key in ("bos", "eos"))
            ids = [(each, made.token_to_id(each)) for each in dict.fromkeys((bos, eos)) if each]
            template = " ".join(each for each in (bos, "$A", eos) if each)
            made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
        text = made.to_str()
        made.no_truncation()
        made.no_padding()
    except Exception as error:  # the library raises bare ones
        why = f"its tokenizer cannot be read ({reason(error)})"
        raise UserError("hf", source, why, "give a directory whose tokenizer `tokenizers` can load") from error
    return made, text


def _within(vocab_size: int, made: Any, text: str, said: list[str]) -> tuple[Any, str]:
    """Leave out special tokens beyond the model's vocabulary, which no text has, such as Gemma 3's of an image."""
    beyond = {i: each for i, each in made.get_added_tokens_decoder().items() if i >= vocab_size}
    if not beyond or not all(each.special for each in beyond.values()):
        return made, text
    names = ", ".join(each.content for each in beyond.values())
    said.append(f"its files name {names}, which the model's vocabulary of {vocab_size} lacks")
    definition = json.loads(text)
    definition["added_tokens"] = [each for each in definition["added_tokens"] if each["id"] not in beyond]
    text = json.dumps(definition, ensure_ascii=False)
    made = type(made).from_str(text)
    made.no_truncation()
    made.no_padding()
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
