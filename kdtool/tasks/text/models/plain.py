"""Small students for text, in plain torch: this very file is shipped with a student and opens it without kdtool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """An LSTM over real tokens in both directions: (B, L, D), (B, L) -> (B, L, 2·hidden), zero at padding.

    The backward half reads each text from its own last token on, so that padding never passes through it.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.forwards = nn.LSTM(width, hidden, batch_first=True)
        self.backwards = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        place_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
        turned_BL = (mask_BL.sum(1, keepdim=True) - 1 - place_L).clamp(min=0)
        ahead_BLH = _run(self.forwards, tokens_BLD)
        back_BLH = _picked(_run(self.backwards, _picked(tokens_BLD, turned_BL)), turned_BL)
        found: Tensor = torch.cat([ahead_BLH, back_BLH], dim=2) * mask_BL.unsqueeze(2)
        return found


def _run(layer: nn.LSTM, tokens_BLD: Tensor) -> Tensor:
    """Return a layer's states; on a CPU in its weights' own precision, since not every CPU has an LSTM in bf16."""
    if tokens_BLD.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            found: Tensor = layer(tokens_BLD.to(next(layer.parameters()).dtype))[0]
            return found
    found = layer(tokens_BLD)[0]
    return found


def _picked(tokens_BLD: Tensor, place_BL: Tensor) -> Tensor:
    return tokens_BLD.gather(1, place_BL.unsqueeze(2).expand(-1, -1, tokens_BLD.shape[2]))


class BiLSTM(nn.Module):
    """Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", 2019, section 3.1.

    One bidirectional layer; its last states in both directions, a hidden layer with ReLU, the classes.

    Args:
        vocab_size: V.
        num_classes: K.
        embedding: width of the word vectors; the paper's are 300.
        hidden: units of each direction; the paper's are 150.
        width: of the hidden layer; the paper's is 400.
        dropout: between word vectors and the layer, and before the classes.
    """

    stages = ("embedding", "lstm")

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embedding: int = 300,
        hidden: int = 150,
        width: int = 400,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.dropout = nn.Dropout(dropout)
        self.lstm = Recurrent(embedding, hidden)
        self.hidden = nn.Linear(2 * hidden, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, K) logits of (B, L) token numbers; ``mask`` (B, L) bool is True at real tokens."""
        states_BLH = self.lstm(self.dropout(self.embedding(ids)) * mask.unsqueeze(2), mask)
        half, last_B = states_BLH.shape[2] // 2, mask.sum(1).clamp(min=1) - 1
        rows_B = torch.arange(ids.shape[0], device=ids.device)  # len() would fix an export's batch size
        ends_BH = torch.cat([states_BLH[rows_B, last_B, :half], states_BLH[:, 0, half:]], dim=1)
        logits: Tensor = self.head(self.dropout(self.hidden(ends_BH).relu()))
        return logits


class TextCNN(nn.Module):
    """Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, section 2.

    Args:
        vocab_size: V.
        num_classes: K.
        embedding: width of the word vectors; the paper's are 300.
        filters: of each window size; the paper's are 100.
        windows: sizes in tokens; the paper's are 3, 4 and 5.
        dropout: before the classes; the paper's is 0.5.
    """

    stages = ("embedding", "features")

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embedding: int = 300,
        filters: int = 100,
        windows: tuple[int, ...] = (3, 4, 5),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.windows = tuple(windows)
        self.convolutions = nn.ModuleList([nn.Conv1d(embedding, filters, size) for size in windows])
        self.features = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(windows), num_classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, K) logits of (B, L) token numbers; ``mask`` (B, L) bool is True at real tokens."""
        tokens_BDL = (self.embedding(ids) * mask.unsqueeze(2)).transpose(1, 2)
        # Zeros around, so that each token is the middle of a window.
        around = [nn.functional.pad(tokens_BDL, ((size - 1) // 2, size // 2)) for size in self.windows]
        found = [each(one).relu() for each, one in zip(self.convolutions, around, strict=True)]
        # Laid out as they are kept and replayed, so that sums over them come out the same.
        maps_BLC = torch.cat(found, dim=1).transpose(1, 2).contiguous()
        # After ReLU no window is below zero, so a window in the padding is never the largest.
        most_BC = (self.features(maps_BLC) * mask.unsqueeze(2)).amax(1)
        logits: Tensor = self.head(self.dropout(most_BC))
        return logits


NETWORKS: dict[str, type[BiLSTM] | type[TextCNN]] = {"bilstm": BiLSTM, "textcnn": TextCNN}


def load(folder: str) -> nn.Module:
    """Return a saved student in evaluation mode; ``tokenizer.json`` beside it makes its inputs."""
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    network = NETWORKS[config["network"]](config["vocab_size"], config["num_classes"], **config["model_args"])
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval()
