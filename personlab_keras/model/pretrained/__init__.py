"""Google's released networks, PoseNet and BodyPix, read into the networks of this project.

`network.read_network` tells the story: a source (`catalogue`, `download`) holds a file (`tfjs`,
`onnx_file`), which is read into a `graph`, whose convolutions are bound to our layers (`binding`).
The same kinds of heads are trained here, so nothing downstream knows the difference.
"""
