"""The embedded data set: scenes of articulated people with exact masks and keypoints, in COCO's
format.

`canvas` paints and remembers the owner of each pixel; `body` poses a body, `body_shapes` dresses it
and `puppet` makes a figure of both; `casting` draws random bodies, clothes and poses; `scenes`
places people, objects and crowds; `dataset` writes scenes to files."""

from personlab_keras.synthetic.dataset import DatasetFiles, write_dataset
from personlab_keras.synthetic.scenes import Scene, SceneOptions, draw_scene

__all__ = ["DatasetFiles", "Scene", "SceneOptions", "draw_scene", "write_dataset"]
