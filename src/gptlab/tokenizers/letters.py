"""GPT-2's letters for the 256 bytes, in which its vocabulary and all byte-level ones are written."""


def byte_of_letter() -> dict[str, int]:
    """Return the byte of each letter: printable ones stand for themselves, the rest for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}
