"""Compose the config of each verb by Hydra from conf/ and the command line; Hydra is used only here."""

from gptlab.config.tree import compose

__all__ = ["compose"]
