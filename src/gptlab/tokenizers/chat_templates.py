"""Turn conversations into ids by a chat template, and tell which of them the assistant says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from gptlab.errors import UserError, require
from gptlab.tokenizers.base import Tokenizer
from gptlab.tokenizers.jinja import BEGIN, CLOSE, END, OPEN, render

Message = Mapping[str, Any]  # role, content; of a user perhaps an `input`, as in Alpaca's records

AUTO = "auto"
# START and STOP stand for what begins a text and ends a turn: the template's own tokens, where the tokenizer has them
_LOOP = "START{% for message in messages %}BODY{% endfor %}{% if add_generation_prompt %}{{ 'ASK' }}{% endif %}"
_SAY = "{% generation %}{{ message['content'] }}{{ STOP }}{% endgeneration %}"
_BY_ROLE = "{% if message['role'] == 'assistant' %}" + _SAY + "{% else %}OTHERS{% endif %}"
_CHATML = "{{ '<|im_start|>' + message['role'] + '\n' }}" + _BY_ROLE + "{{ '\n' }}"
_LLAMA3 = "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}" + _BY_ROLE.replace(
    "message['content']", "message['content'] | trim"
)
_ALPACA = (
    "{% if loop.first %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% else %}"
    "{{ 'Below is an instruction that describes a task' }}"
    "{% if message['input'] %}{{ ', paired with an input that provides further context' }}{% endif %}"
    "{{ '. Write a response that appropriately completes the request.\n\n' }}{% endif %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% if message['input'] %}{{ '### Input:\n' + message['input'] + '\n\n' }}{% endif %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '### Response:' }}" + _SAY + "{% if not loop.last %}{{ '\n\n' }}"
    "{% endif %}{% endif %}"
)


def _template(body: str, ask: str, others: str = "") -> str:
    return _LOOP.replace("BODY", body).replace("OTHERS", others).replace("ASK", ask)


class _BuiltIn(NamedTuple):
    text: str
    start: str | None = None  # the tokens that it begins a text and ends a turn with, by their names
    stop: str | None = None


_SAID_AND_STOP = "{{ message['content'] }}{{ STOP }}"
_TRIMMED_AND_STOP = "{{ message['content'] | trim }}{{ STOP }}"
BUILT_IN = {
    "plain": _BuiltIn(_template(_BY_ROLE, "", "{{ message['content'] }}")),
    "alpaca": _BuiltIn(_template(_ALPACA, "### Response:")),
    "chatml": _BuiltIn(_template(_CHATML, "<|im_start|>assistant\\n", _SAID_AND_STOP), None, "<|im_end|>"),
    "llama3": _BuiltIn(
        _template(_LLAMA3, "<|start_header_id|>assistant<|end_header_id|>\\n\\n", _TRIMMED_AND_STOP),
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
}


class Encoded(NamedTuple):
    """The ids of a conversation, and which of them count in the loss."""

    ids: list[int]
    counts: list[bool]


@dataclass
class ChatTemplate:
    """A chat template with the tokenizer whose tokens it names.

    What a message says is ordinary text, also where it spells a special token of the tokenizer.
    """

    text: str  # Jinja
    tokenizer: Tokenizer
    separate_input: bool = False  # whether the template itself places a message's `input`
    ends: tuple[int, ...] = field(init=False)  # ids that end an answer

    def __post_init__(self) -> None:
        self.special = self.tokenizer.special_tokens
        self._special = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)")
        probe = self.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        last = [i for i, counts in zip(*probe, strict=True) if counts][-1]
        self.ends = tuple(dict.fromkeys([last, *self.tokenizer.ends]))

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Return the ids of a conversation; those that count are what the assistant says, with the end of each turn.

        Where the template ends the last turn with no special token, the tokenizer's own end follows it. Raises
        UserError where it cannot be told what the assistant says.
        """
        found = Encoded([], [])
        pieces = self._pieces(messages)
        for text, counts in pieces:
            ids = self._ids(text, within=bool(found.ids))
            found.ids.extend(ids)
            found.counts.extend([counts] * len(ids))
        if pieces and pieces[-1][1] and found.ids[-1] not in self.special.values():
            why, todo = "ends no turn, and the tokenizer declares no end", "take another template or tokenizer"
            require(bool(self.tokenizer.ends), "template", "of the tokenizer", why, todo)
            found.ids.append(self.tokenizer.ends[0])
            found.counts.append(True)
        return found

    def answer(self, prompt: Sequence[Message], answer: Sequence[Message]) -> Encoded:
        """Return the ids of a conversation; those that count are what the assistant says after the prompt."""
        found = self.encode([*prompt, *answer])
        earlier = sum(self.encode(prompt).counts) if any(each["role"] == "assistant" for each in prompt) else 0
        numbers = accumulate(found.counts)
        return found._replace(counts=[c and n > earlier for c, n in zip(found.counts, numbers, strict=True)])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation and of the beginning of the assistant's next turn."""
        return self.ids(self.prompt_text(messages))

    def prompt_text(self, messages: Sequence[Message], begun: str = "") -> str:
        """Return the text of a conversation and of the beginning of the assistant's next turn, for `ids`.

        `begun` is what the assistant has said in it already.
        """
        return re.sub(f"[{BEGIN}{END}]", "", self._render(messages, ask=True)) + self._protected(begun)

    def ids(self, text: str) -> list[int]:
        """Return the ids of what `prompt_text` gave, and of other text behind it."""
        return self._ids(text, within=False)

    def _pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Return the text of a conversation in pieces, with whether each counts."""
        text = self._render(messages)
        if BEGIN not in text:
            return self._by_prefixes(messages, text)
        found, counts = [], False
        for piece in re.split(f"([{BEGIN}{END}])", text):
            if piece in (BEGIN, END):
                counts = piece == BEGIN
            elif piece:
                found.append((piece, counts))
        return found

    def _by_prefixes(self, messages: Sequence[Message], text: str) -> list[tuple[str, bool]]:
        """Find what the assistant says by the texts of the conversation up to each of its turns, and through it.

        A turn ends with its last special token; what the template puts behind that nobody says.
        """
        found, at = [], 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, through = self._render(messages[:number], ask=True), self._render(messages[: number + 1])
            if not (text.startswith(through) and through.startswith(before) and at <= len(before)):
                why = "the chat template writes a turn otherwise when others follow: what to learn is not known"
                todo = "choose another, such as task.template=chatml, or put {% generation %} around what is said"
                raise UserError("template", "of the tokenizer", why, todo)
            ends = [match.end() for match in self._special.finditer(through, len(before))]
            end = ends[-1] if ends else len(through)
            found += [(text[at : len(before)], False), (text[len(before) : end], True)]
            at = end
        return [(piece, counts) for piece, counts in [*found, (text[at:], False)] if piece]

    def _render(self, messages: Sequence[Message], ask: bool = False) -> str:
        each = []
        for message in messages:
            content, more = message["content"], message.get("input")
            if more and not self.separate_input:
                content, more = f"{content}\n\n{more}", None
            said = {"role": message["role"], "content": self._protected(content)}
            each.append({**said, "input": self._protected(more)} if more else said)
        return render(self.text, each, ask, self._names())

    def _names(self) -> dict[str, str]:
        """Return the names of the special tokens, as templates have them."""
        tokenizer, declared = self.tokenizer, self.tokenizer.declared
        bos = tokenizer.eot if declared.bos is None else declared.bos
        ids = {"bos": bos, "eos": next(iter(tokenizer.ends), None), "pad": declared.pad, "unk": declared.unk}
        names = {key: None if i is None else tokenizer.special_token(i) for key, i in ids.items()}
        return {f"{key}_token": name for key, name in names.items() if name is not None}

    def _protected(self, text: str) -> str:
        """Return a text in which what would be taken for a special token, or a mark of ours, is written in code."""
        marks = f"[{BEGIN}{END}{OPEN}{CLOSE}]"
        either = re.compile(f"{self._special.pattern}|{marks}")
        return either.sub(lambda match: OPEN + match[0].encode().hex() + CLOSE, text)

    def _ids(self, text: str, within: bool) -> list[int]:
        """Return the ids of a rendered text; `within` says that others stand before it."""
        found: list[int] = []
        for piece, special in self._divided(text):
            if special is not None:
                found.append(special)
                continue
            plain = re.sub(f"{OPEN}([0-9a-f]*){CLOSE}", lambda match: bytes.fromhex(match[1]).decode(), piece)
            later = within or bool(found)
            found += self.tokenizer.encode_within(plain) if later else self.tokenizer.encode(plain)
        return found

    def _divided(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Yield ordinary text with None, and special tokens with their ids."""
        at = 0
        for match in self._special.finditer(text):
            if match.start() > at:
                yield text[at : match.start()], None
            yield match[0], self.special[match[0]]
            at = match.end()
        if at < len(text):
            yield text[at:], None


@dataclass(frozen=True)
class ChatCodec:
    """A tokenizer for decoding, whose prompts are what a user says after the messages `before`."""

    template: ChatTemplate
    before: Sequence[Message] = ()

    @property
    def n_vocab(self) -> int:
        """The number of the tokenizer's ids."""
        return self.template.tokenizer.n_vocab

    def encode(self, text: str) -> list[int]:
        """Return the ids of the conversation up to the beginning of the answer."""
        return self.template.prompt([*self.before, {"role": "user", "content": text}])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self.template.tokenizer.decode(ids)


def chat_template(name: str, tokenizer: Tokenizer) -> ChatTemplate:
    """Return a template by its name: a built-in one, one of the tokenizer's own, or auto: its own, else chatml.

    A built-in template has the tokens that it is known for where the tokenizer has them as special ones; else the
    tokenizer's own stand in their place, and other marks are ordinary text. Raises UserError for an unknown name.
    """
    own = tokenizer.declared.chat_template
    by_name = own if isinstance(own, dict) else {} if own is None else {"default": own}
    if name == AUTO and not by_name:
        name = "chatml"
    wanted = "default" if name == AUTO else name
    if wanted in by_name:
        return ChatTemplate(by_name[wanted], tokenizer)
    known = [AUTO, *BUILT_IN, *by_name]
    require(name in BUILT_IN, "task.template", name, "no such template", f"choose one of {', '.join(known)}")
    built_in, special = BUILT_IN[name], tokenizer.special_tokens
    why, todo = "needs the name of the token that ends a text, and the tokenizer has none", "take another tokenizer"
    ends = tokenizer.ends[:1]
    named = built_in.stop in special or any(tokenizer.special_token(i) is not None for i in ends)
    require(named, "task.template", name, why, todo)
    start = "{{ bos_token }}" if tokenizer.start else ""
    start = f"{{{{ '{built_in.start}' }}}}" if built_in.start in special else start
    stop = f"'{built_in.stop}'" if built_in.stop in special else "eos_token"
    text = built_in.text.replace("START", start).replace("STOP", stop)
    return ChatTemplate(text, tokenizer, separate_input=name == "alpaca")
