"""What each verb is asked, composed by Hydra from conf/ and the command line. Hydra ends here."""

from gptlab.config.train import TrainConfig
from gptlab.config.tree import compose

__all__ = ["TrainConfig", "compose"]
