"""Say what the pages need and is not installed."""

from gptlab.errors import UserError


def require_app(verb: str) -> None:
    """Refuse a verb whose pages cannot be served; raises UserError, which names the extra to install."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(verb, "page", f"needs {error.name}", "pip install 'gptlab[app]'") from error
