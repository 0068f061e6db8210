"""A text on which tokenizers differ if they differ at all, to prove that two give the same ids."""

from collections.abc import Callable, Sequence

from gptlab.tokenizers.base import EOT

PARTS = (
    "Hello world  and   some    more\n\n\n lines\n \n\t\ttabs \r\nCRLF\r\n\r\n end   \n",
    "   three spaces first, and\u00a0no-break\u3000ideographic\u2009thin\u202fnarrow\u1680ogham\u0085nel\u2028ls"
    " spaces  ",
    "I'm you're he'll they've she'd it's don't I'M YOU'RE HE'LL THEY'VE SHE'D IT'S DON'T o'\u017f \u2019s 'x '' ' s",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000"
    " 0x1F \u00bd \u2168 \u0661\u0662\u0663 \uff11\uff12 \u00b2\u00b3 \u2081",
    "\u5317\u4eac\u548c\u6771\u4eac\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8"
    " \ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    " \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f1e8\U0001f1ed\U0001f408\u200d\u2b1b",
    "caf\u00e9 cafe\u0301 \u00c5 A\u030a \u212b \ufb01"
    " \u1e9e \u00df \u0130i \u0928\u093f\u0932 e\u0301\u0302\u0323 \uac00 \u1100\u1161",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u200fRTL\u200e \u202eoverride\u202c",
    "\x00\x01\x1f\x7f\x80\x9f\ufeff\ufffd\ufffe\U0010ffff\ue000\u200b\u00ad",
    f"{EOT}<s></s><unk><pad><|im_start|>user<|im_end|>[INST] <0x41> \u2581\u2581 \u0120\u010a",
    "a" * 300 + " " * 300 + "!" * 100 + "\n" * 100 + "9" * 100 + "\u00e9" * 50 + "\u6f22" * 50,
    "CamelCaseWORDSAnd_snake_case::path/to/file.py(x=[1,2])#$%^&*;  return -1; https://a.b/c?d=e&f",
    " x",
    "x ",
    " ",
    "",
)
TEXTS = (*PARTS, "\n".join(PARTS))

Encode = Callable[[str], Sequence[int]]


def same_ids(a: Encode, b: Encode) -> bool:
    """Tell whether two tokenizers give the same ids on all of TEXTS."""
    return all(list(a(text)) == list(b(text)) for text in TEXTS)
