"""The decoder in TensorFlow operations, so that a SavedModel can hold it.

`decoder` is the reference. Each module here repeats one of its modules under the same name, and the
functions of the same names give the same results, in float32. Arrays have a fixed number of places,
of which the first `count` are taken: `fields` holds the cleaned maps, `poses` runs the steps in
order, and `loops` runs a step for every place that is taken. Sizes may be unknown until the graph
runs; where all are known, poses compile with XLA."""
