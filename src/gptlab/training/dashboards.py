"""Refuse a dashboard that cannot be reached or will not let anybody in, before a run begins."""

import configparser
import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from gptlab.errors import UserError, reason, require

WANDB = "https://api.wandb.ai"
TIMEOUT = 10.0  # seconds that an MLflow server has to answer


def require_wandb_login() -> None:
    """Refuse Weights & Biases where nobody is logged in: it would ask in the middle of the run, or end it."""
    settings = _wandb_settings()
    offline = settings.get("mode") in ("offline", "dryrun", "disabled")
    known = offline or bool(settings.get("api_key") or settings.get("identity_token_file"))
    known = known or _in_netrc(settings.get("base_url") or WANDB)
    todo = "wandb login, or set WANDB_MODE=offline"
    require(known, "logger.wandb", "true", "nobody is logged in to Weights & Biases", todo)


def require_mlflow_server(uri: str) -> None:
    """Refuse a server of MLflow that does not answer; a file of it is made by the run."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        urllib.request.urlopen(uri, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:  # it answers; the run will be let in or not
        pass
    except (OSError, ValueError) as error:
        raise UserError(
            "logger.mlflow_uri", uri, f"does not answer ({reason(error)})", "start it, or leave it out"
        ) from error


def _wandb_settings() -> dict[str, str]:
    """Return the settings of the environment over those of wandb's files."""
    found: dict[str, str] = {}
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    for path in (folder / "settings", Path("wandb/settings")):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path)
            found |= dict(parser["default"]) if "default" in parser else {}
        except (OSError, ValueError, configparser.Error):
            continue
    names = ("mode", "api_key", "identity_token_file", "base_url")
    return found | {
        name: os.environ[f"WANDB_{name.upper()}"] for name in names if f"WANDB_{name.upper()}" in os.environ
    }


def _in_netrc(url: str) -> bool:
    """Tell whether ~/.netrc has a password for a server."""
    try:
        path = os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())
        return netrc.netrc(path).authenticators(urlsplit(url).netloc) is not None
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):
        return False
