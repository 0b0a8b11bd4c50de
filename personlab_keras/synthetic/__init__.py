"""The embedded data set: scenes of articulated people with exact masks and keypoints, in COCO's
format.

A canvas remembers who painted each pixel; a puppet is a body with joints that draws itself on it;
casting draws bodies, clothes and poses at random; a scene places people, things and crowds; a data
set is many scenes as files."""

from personlab_keras.synthetic.dataset import DatasetFiles, write_dataset
from personlab_keras.synthetic.scenes import Scene, SceneOptions, draw_scene

__all__ = ["DatasetFiles", "Scene", "SceneOptions", "draw_scene", "write_dataset"]
