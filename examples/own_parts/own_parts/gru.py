"""The model of model.py, in a file of its own: it needs torch, which help and mistakes need not wait for."""

from torch import Tensor, nn


class GRU(nn.Module):
    """Token ids (B, T) in, logits of each next token (B, T, V) out."""

    def __init__(self, vocab_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(idx))  # (B, T, C)
        logits: Tensor = self.head(self.dropout(states))
        return logits
