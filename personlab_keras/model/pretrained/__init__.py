"""Imports Google's released networks, PoseNet and BodyPix.

`network.read_network` is the entry point: a source (`catalogue`, `download`) provides a file
(`tfjs`, `onnx_file`), which is read into a `graph`, whose convolutions are bound to our layers
(`binding`).
"""
