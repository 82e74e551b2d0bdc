"""One file per kind of source, and the door to them all."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from dlhpc.data.parted import PartedDataset
from dlhpc.data.source import Source
from dlhpc.data.sources.arrays import open_arrays
from dlhpc.data.sources.digits import open_digits
from dlhpc.data.sources.image_folder import open_image_folder
from dlhpc.data.sources.synthetic import open_synthetic
from dlhpc.errors import ConfigError, DataError, NotFoundError
from dlhpc.spec.data import ArraysSpec, DataSpec, DigitsSpec, ImageFolderSpec, SyntheticSpec
from dlhpc.spec.model import ModelSpec


def open_dataset(spec: DataSpec, model: ModelSpec) -> PartedDataset:
    """The examples that a spec describes, cut into parts.

    The model's num_classes and input_shape, when given, settle what the data leaves open (synthetic data; arrays
    without class names). Raises ConfigError for settings that contradict each other or the data, NotFoundError for
    a missing file or folder, DataError for data that cannot be used.
    """
    dataset = PartedDataset(_open_source(spec, model), spec.split)
    channels = dataset.info.input_shape[2]
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in {1, channels}:
            raise ConfigError(
                f"data.{name}: {len(values)} values for images of {channels} channel(s); "
                "give one value, or one per channel"
            )
    return dataset


def section_for(path: Path) -> dict[str, str]:
    """The `data` section, in a run, of what lies at a path: a folder of images, or an .npz file.

    The path is made absolute, so that the run can be repeated from another folder. Raises NotFoundError when
    nothing is there, DataError for another file.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder; expected a folder of images, or an .npz file")
    if path.is_dir():
        source = "image_folder"
    elif path.suffix == ".npz":
        source = "arrays"
    else:
        raise DataError(f"{path}: expected a folder with one sub-folder of images per class, or an .npz file")
    return {"source": source, "path": str(path.absolute())}


def _open_source(spec: DataSpec, model: ModelSpec) -> Source:
    match spec:
        case DigitsSpec():
            return open_digits()
        case ArraysSpec():
            return open_arrays(spec, model.num_classes)
        case ImageFolderSpec():
            return open_image_folder(spec)
        case SyntheticSpec():
            return open_synthetic(spec, model)
        case _:
            assert_never(spec)
