"""The decoder in TensorFlow operations, so that a SavedModel can hold it.

`decoder` is the reference. Each module here repeats one of its modules under the same name, and the
functions of the same names give the same results, in float32. `fields` holds the maps and the
frames, `poses` runs the steps in order, `loops` runs a step for every person. On a CPU an operation
costs microseconds whatever it does, so a step is few operations over everybody. Numbers of seeds,
votes and people are those of the image; therefore XLA does not compile it."""
