"""The config of each verb, composed by Hydra from conf/ and the command line. Hydra ends here."""

from gptlab.config.tree import compose

__all__ = ["compose"]
