"""The package. Versions are ranges here; requirements.txt pins the exact set that the tests passed
with.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "types-PyYAML",
    "jax>=0.4.30",
    "pillow>=11.3",
    "websockets>=13",
    "nbclient>=0.10",
    "ipykernel>=6",
    "matplotlib>=3.8",
    "kubernetes-validate>=1.30",
    # Servers of buckets. moto's own extra for its server brings all of AWS.
    "moto[s3]>=5",
    "flask>=3",
    "flask-cors>=4",
    "gcp-storage-emulator>=2026.7",
]
ONNX = ["onnx>=1.17", "onnxruntime>=1.18", "tf2onnx>=1.16"]
OPENVINO = ["openvino>=2025.1"]
LITERT = ["ai-edge-litert>=1.2"]
# Ray Serve brings Starlette, Uvicorn, h11 and Prometheus' client, which are named because they are
# used here directly. The lowest versions are those without known vulnerabilities.
SERVE = [
    "ray[serve]>=2.54,<3",
    "starlette>=0.49.1",
    "uvicorn>=0.38",
    "h11>=0.16",
    "prometheus_client>=0.20",
    "python-multipart>=0.0.22",
]
PANDAS = ["pandas>=2.1"]
TRACK = ["trackers>=2.6,<3", "supervision>=0.31"]
HUB = ["huggingface_hub>=1.0", "kagglehub>=0.3.12"]
DOCS = ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2"]
BEAM = ["apache-beam>=2.60,<3"]
GCS = ["gcsfs>=2025.3"]
S3 = ["s3fs>=2025.3"]
ORBAX = ["orbax-checkpoint>=0.11"]
GRAIN = ["grain>=0.2.14,<0.3", "array-record>=0.8.2,<1"]

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "personlab_keras" / "__init__.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
).group(1)

setup(
    name="personlab-keras",
    version=VERSION,
    description="PersonLab for Keras 3: every person in a photo, keypoints and instance mask, in one pass of one network",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["personlab_keras", "personlab_keras.*", "data_prep", "data_prep.*"]
    ),
    package_data={
        "personlab_keras": [
            "configs/*.yaml",
            "skeletons/*.yaml",
            "demo.html",
            "inference/explain.html",
            "serving/page.html",
            "py.typed",
        ],
        "data_prep": ["page.html", "py.typed"],
    },
    install_requires=[
        "tensorflow>=2.18,<3",
        # 0.3 MB that bring nothing else; every SavedModel gets its warm-up requests by it.
        "tensorflow-serving-api>=2.18,<3",
        "keras>=3.15,<4",
        "numpy>=1.26,<3",
        "scipy>=1.11,<2",
        "numba>=0.61,<1",
        "h5py>=3.10,<4",
        "opencv-python>=4.9,<6",
        "pycocotools>=2.0.8,<3",
        "PyYAML>=6,<7",
        "protobuf>=4.25.8,<8",
        "google-crc32c>=1.5,<2",
        "rich>=13,<16",
        "tensorboard>=2.18,<3",
    ],
    extras_require={
        "test": [
            *TEST,
            *ONNX,
            *LITERT,
            *OPENVINO,
            *SERVE,
            *BEAM,
            *GRAIN,
            *GCS,
            *S3,
            *ORBAX,
            *PANDAS,
            *TRACK,
            *HUB,
            *DOCS,
        ],
        "onnx": ONNX,
        "litert": LITERT,
        "openvino": OPENVINO,
        "serve": SERVE,
        "beam": BEAM,
        "grain": GRAIN,
        "gcs": GCS,
        "s3": S3,
        "orbax": ORBAX,
        "pandas": PANDAS,
        "track": TRACK,
        "hub": HUB,
        "docs": DOCS,
        "jax": ["jax>=0.4.30"],
        "torch": ["torch>=2.6"],
        # JAX computes; TensorFlow, which has no TPU support any more, only feeds.
        "tpu": ["jax[tpu]>=0.7"],
    },
    entry_points={"console_scripts": ["personlab = personlab_keras.cli:main"]},
)
