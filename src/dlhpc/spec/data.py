"""Where the examples come from, how they are split, and how they become numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlhpc.spec.base import NonNegativeFloat, PositiveFloat, PositiveInt, Spec

Share = Annotated[float, Field(ge=0.0, le=0.9)]


class SplitSpec(Spec):
    """How examples are divided. The test part is read by evaluation alone."""

    method: Literal["hash", "halves"] = "hash"
    """`hash`: by a hash of the example's id, stable when examples are added. `halves`: first half / second half
    (test) in the source's order, validation hashed from the FIRST half."""

    validation: Share = 0.1
    """Share of the examples (for `halves`: of the first half) kept for validation."""

    test: Share = 0.1
    """Share of the examples kept for the test (ignored by `halves`, where it is one half)."""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.method == "hash" and self.validation + self.test > 0.9:
            raise ValueError("validation + test leave less than a tenth for training")
        return self


class DigitsSplitSpec(SplitSpec):
    """How the digits are divided: the classic way, whatever else of the split a file sets."""

    method: Literal["hash", "halves"] = "halves"
    """`halves`: first half / second half (test) in the source's order, validation hashed from the FIRST half. `hash`:
    by a hash of the example's id."""


class AugmentSpec(Spec):
    """Random affine jitter and flips of training images, drawn per example, a function of (seed, epoch, id)."""

    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Greatest rotation, degrees."""

    translation: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Greatest shift, as a share of the image's side."""

    scale: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Greatest relative change of size."""

    shear: Annotated[float, Field(ge=0.0, le=45.0)] = 0.0
    """Greatest shear, degrees."""

    horizontal_flip: bool = False
    """Mirror half of the images left to right."""


class _Source(Spec):
    split: SplitSpec = SplitSpec()
    """Training, validation and test parts."""

    augment: AugmentSpec = AugmentSpec()
    """Random changes to training images."""

    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in 0..1, one value or one per channel. Stored with the model: serving uses the same."""

    std: tuple[PositiveFloat, ...] = (0.5,)
    """Divides (pixel - mean), one value or one per channel."""


class DigitsSpec(_Source):
    """scikit-learn's UCI handwritten digits: 1,797 grey images of 8 x 8, ten classes."""

    source: Literal["digits"] = "digits"
    split: DigitsSplitSpec = DigitsSplitSpec()
    """Training, validation and test parts: by default the classic first half / second half."""


class ArraysSpec(_Source):
    """One .npz file: `inputs` (N, H, W[, C]) uint8, `labels` (N,) integers; optional `ids`, `classes`."""

    source: Literal["arrays"] = "arrays"
    path: Path
    """The .npz file."""


class ImageFolderSpec(_Source):
    """A folder with one sub-folder of PNG, JPEG, GIF, BMP or WebP files per class."""

    source: Literal["image_folder"] = "image_folder"
    path: Path
    """The folder."""

    image_size: tuple[PositiveInt, PositiveInt] = (32, 32)
    """Images are resized to [height, width]."""

    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour."""

    on_corrupt: Literal["skip", "refuse"] = "skip"
    """A file that is no image: name it and go on without it, or refuse the folder."""


class SyntheticSpec(_Source):
    """Made-up, learnable images: a random pattern per class plus noise. Needs no file."""

    source: Literal["synthetic"] = "synthetic"
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """[height, width, channels] of each image; model.input_shape when absent, else [28, 28, 1]."""

    num_examples: PositiveInt = 4096
    """How many examples there are, all parts together."""

    num_classes: Annotated[int, Field(ge=2, strict=True)] | None = None
    """Number of classes; model.num_classes when absent, else 10."""

    noise: NonNegativeFloat = 0.25
    """Standard deviation of the noise, in units of the pixel range."""


DataSpec = Annotated[DigitsSpec | ArraysSpec | ImageFolderSpec | SyntheticSpec, Field(discriminator="source")]
