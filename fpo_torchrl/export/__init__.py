"""A trained flow policy as one file that runs elsewhere: ONNX, torch.export or TorchScript."""

from .formats import FORMATS, Format
from .write import export_policy

__all__ = ["FORMATS", "Format", "export_policy"]
