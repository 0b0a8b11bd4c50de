"""The decoder in TensorFlow operations, so that a SavedModel can hold it.

`decoder` is the reference. Each module here repeats one of its modules under the same name, and the
functions of the same names give the same results, in float32. `fields` holds the maps and the
frames, `poses` runs the steps in order.

On one core an operation costs half a microsecond, a gathered or added number 3 nanoseconds, a
sorted one 60, and a map that is transposed some hundred microseconds. So a step is few operations
over everybody, maps stay as the network gives them, pairs of coordinates travel as one complex
number, and only votes near somebody are sorted. Numbers of seeds, votes and people are those of the
image, which XLA does not compile."""
