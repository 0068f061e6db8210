"""The verb `audit`: what is in a data set, and what is wrong with it."""

from typing import Any

from rich.console import Console

from gptlab.commands.configs import AuditConfig
from gptlab.data.progress import watching
from gptlab.data.quality import audit_figures
from gptlab.data.tokens.prepare import prepare, texts
from gptlab.reporting.corpus import audit_lines, size_table


def audit(config: AuditConfig) -> dict[str, Any]:
    """Print and return sizes, copies, overlap of the splits, the longest documents, ids and hard characters."""
    console = Console()
    with watching(console) as watch:
        corpus = prepare(config.data, config.tokenizer, watch, any_ids=True)
    with console.status("counting"):
        result = audit_figures(corpus, texts(config.data, corpus), config.ngram)
    console.print(size_table(result))
    console.print("\n".join(audit_lines(result)), markup=False, highlight=False, soft_wrap=True)
    return result
