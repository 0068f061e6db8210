"""Name what may become of a text that outgrows the context; importable without torch."""

OVERFLOWS = ("crop", "ring", "refuse")
