"""Models by name: released networks, `hf://` and `kaggle://`. Each is fetched once into the cache,
where its revision and checksums are pinned.
"""

from personlab_keras.hub.names import load, model_path

__all__ = ["load", "model_path"]
