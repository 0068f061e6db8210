"""What each verb is asked, composed by Hydra from conf/ and the command line. Hydra ends here."""

from gptlab.config.tree import compose
from gptlab.training.config import TrainConfig

__all__ = ["TrainConfig", "compose"]
