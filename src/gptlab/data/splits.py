"""What is trained on and what is held out: a function of the text alone, the same for every seed and run."""

import hashlib


def split(documents: list[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """(training, held-out) documents, in their order.

    Documents are held out in the order of their hash, each that still fits into `val_fraction` of the bytes; equal
    documents fall on the same side. Where none fits (one book, a few long files), the end of each is held out.
    """
    if val_fraction == 1:
        return [], documents
    copies: dict[str, list[int]] = {}
    for i, document in enumerate(documents):
        copies.setdefault(hashlib.sha256(document.encode()).hexdigest(), []).append(i)
    sizes = [len(document.encode()) for document in documents]
    room = val_fraction * sum(sizes)
    held_out: set[int] = set()
    for _, group in sorted(copies.items()):
        size = sum(sizes[i] for i in group)
        if size <= room:
            room -= size
            held_out.update(group)
    if held_out:
        val = [d for i, d in enumerate(documents) if i in held_out]
        return [d for i, d in enumerate(documents) if i not in held_out], val
    cuts = [int((1 - val_fraction) * len(document)) for document in documents]
    train = [d[:cut] for d, cut in zip(documents, cuts, strict=True)]
    return train, [d[cut:] for d, cut in zip(documents, cuts, strict=True)]
