"""The SavedModel: signatures, image decoding in the graph, files for TensorFlow Serving."""
