"""Export: model directories with a SavedModel, and files for ONNX Runtime and LiteRT."""
