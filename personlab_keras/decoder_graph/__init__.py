"""The whole system in TensorFlow operations, so that a SavedModel holds it: image bytes in, people
out, no Python of ours.

`decoder` is the reference: what is here finds the same people, in float32, with a fixed number of
places for them. Its functions are traced, so they take tensors and give tensors; sizes may be
unknown until they run. Where all sizes are known, poses compile by XLA."""
