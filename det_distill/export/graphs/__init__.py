"""Students as graphs that run without detectron2 and without this package: ONNX, TorchScript, ``torch.export``."""
