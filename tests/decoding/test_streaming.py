import pytest

from gptlab.decoding.streaming import TextStream
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte

BYTE = Byte().build([])


def pieces(text: str, *stops: str) -> tuple[list[str], TextStream]:
    """Return the text shown after each byte, and at the end."""
    stream, shown = TextStream(BYTE.decode, stops), []
    for byte in text.encode():
        shown.append(stream.add(byte))
        if stream.stopped:
            break
    return [*shown, stream.end()], stream


@pytest.mark.parametrize("text", ["plain", "naïve café", "🐈‍⬛ 猫", "e\u0301", "a\ufffdb"])
def test_no_character_is_ever_split(text: str) -> None:
    shown, stream = pieces(text)
    assert "".join(shown) == text == stream.text
    assert all(len(piece) <= 1 or piece == "\ufffdb" for piece in shown)  # one byte completes one character at most


def test_a_character_that_never_ends_is_shown_at_the_end() -> None:
    stream = TextStream(BYTE.decode)
    assert [stream.add(byte) for byte in b"a\xe7\x8c"] == ["a", "", ""]
    assert stream.end() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("aabaab", ["ab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("no such thing", ["xyz"], "no such thing"),
        ("first. second", ["second", ". "], "first"),
        ("ends with a beginning: th", ["the"], "ends with a beginning: th"),
        ("猫犬鳥", ["犬"], "猫"),
    ],
)
def test_nothing_from_a_stop_string_on_is_ever_shown(text: str, stops: list[str], expected: str) -> None:
    shown, stream = pieces(text, *stops)
    assert "".join(shown) == expected == stream.text
    assert stream.stopped == any(stop in text for stop in stops)


def test_an_empty_stop_string() -> None:
    with pytest.raises(UserError, match=r"^stop=\"\": is empty"):
        TextStream(BYTE.decode, [""])
