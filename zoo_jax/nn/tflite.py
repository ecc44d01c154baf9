"""Networks in TFLite files, run on pictures by an interpreter: judges without gradients."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from zoo_jax.core.errors import DataError, WeightsError
from zoo_jax.core.files import PathLike

_IDENTIFIER = b"TFL3"  # bytes 4 to 7 of every file of this format


class TfliteNetwork:
    """A TFLite network with one picture as its input and one output, on the CPU.

    A network of 8-bit numbers takes the bytes of the pixels as they are (the meaning of the bytes
    stands in the file), a float network takes ``low + (high - low) * pixel``.

    Attributes:
      path: The file.
      size: (height, width) of the pictures that it takes.
      output_shape: Of what it returns for one picture.

    Args:
      path: A ``.tflite`` file.
      input_range: (low, high) of a float network's input; 8-bit networks ignore it.
      threads: Of the interpreter.

    Raises:
      WeightsError: if the file is absent, no TFLite network of this kind, or the interpreter is
        not installed (``pip install "zoo-jax[tflite]"``).
    """

    def __init__(
        self,
        path: PathLike,
        *,
        input_range: tuple[float, float] = (0.0, 1.0),
        threads: int = 1,
    ):
        self.path = pathlib.Path(path)
        self._range = input_range
        self._interpreter = _open(self.path, threads)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        shapes = [tuple(map(int, d["shape"])) for d in (*inputs, *outputs)]
        if (
            (len(inputs), len(outputs)) != (1, 1)
            or len(shapes[0]) != 4
            or (shapes[0][0], shapes[0][3]) != (1, 3)
            or inputs[0]["dtype"] not in (np.uint8, np.int8, np.float32)
        ):
            raise WeightsError(
                f"{self.path}: takes and returns {shapes}: needed are one RGB picture"
                " [1, h, w, 3] and one output"
            )
        self._input, self._output = inputs[0], outputs[0]
        self.size = shapes[0][1:3]
        self.output_shape = shapes[1][1:]

    def __call__(
        self,
        images: Float[np.ndarray, "b h w 3"]
        | UInt8[np.ndarray, "b h w 3"]
        | Float[Array, "b h w 3"],
    ) -> np.ndarray:
        """Runs the network on each picture.

        Args:
          images: RGB, float in [0, 1] (clipped) or bytes; of `size`, so resize them first.

        Returns:
          [b, ...]: the output of each picture. Quantised numbers are returned as the float32
          values that they stand for, class indices as they are.

        Raises:
          DataError: for pictures of another size or number of channels.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (*self.size, 3):
            height, width = self.size
            raise DataError(
                f"{self.path.name} takes pictures [b, {height}, {width}, 3], got"
                f" {list(images.shape)}: resize them"
            )
        return np.stack([self._run(image) for image in self._encoded(images)])

    def _encoded(self, images: np.ndarray) -> np.ndarray:
        """The pictures as the network wants them."""
        dtype = self._input["dtype"]
        if dtype == np.float32:
            low, high = self._range
            if images.dtype == np.uint8:
                images = images / np.float32(255)
            pixels = np.clip(images, 0, 1)
            return (low + (high - low) * pixels).astype(np.float32)
        if images.dtype != np.uint8:
            images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
        if dtype == np.int8:
            return (images.astype(np.int16) - 128).astype(np.int8)
        return images

    def _run(self, image: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input["index"], image[None])
        self._interpreter.invoke()
        out = self._interpreter.get_tensor(self._output["index"])[0]
        scale, zero = self._output["quantization"]
        if scale == 0:  # not quantised
            return out
        return np.float32(scale) * (out.astype(np.float32) - np.float32(zero))


def _open(path: pathlib.Path, threads: int) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such TFLite file")
    with path.open("rb") as f:
        if f.read(8)[4:] != _IDENTIFIER:
            raise WeightsError(f"{path}: is no TFLite file")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise WeightsError(
            f'{path}: is a TFLite network; to run it: pip install "zoo-jax[tflite]"'
        ) from None
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(f"{path}: is no intact TFLite file: {reason}") from None
    return interpreter
