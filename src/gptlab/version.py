"""The version of gptlab, which a run's config.yaml has too."""

__version__ = "0.1.0"
