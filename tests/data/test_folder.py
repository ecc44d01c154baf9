import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.folder import ImageFolder, data_root
from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import open_source


@pytest.fixture
def folder(tmp_path):
    """Classes "b" (2 images) and "a c" (1), made in an unsorted order, with clutter."""
    rng = np.random.default_rng(0)
    pixels = {}
    for name in ("b/9.png", "a c/1.BMP", "b/10.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels[name] = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels[name]).save(path)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.png").write_text("no image")
    (tmp_path / "b" / "folder.png").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "loose.png").write_text("no image")
    return tmp_path, pixels


def test_classes_and_images_come_in_the_order_of_their_names(folder):
    root, pixels = folder
    source = ImageFolder(root)
    assert source.classes == ("a c", "b")
    assert source.info["num_classes"] == 2
    names = [str(p.relative_to(root)) for p in source.paths]
    assert names == ["a c/1.BMP", "b/10.png", "b/9.png"]
    for i, name in enumerate(names):
        np.testing.assert_array_equal(source[i]["image"], pixels[name])
        assert (source[i]["label"], source[i]["id"]) == ([0, 1, 1][i], i)


def test_a_range_of_each_class_holds_the_others_out(folder):
    root, _ = folder
    source = ImageFolder(root, per_class=[0, 1])
    assert [p.name for p in source.paths] == ["1.BMP", "10.png"]
    source = ImageFolder(root, per_class=(1, 9))
    assert [p.name for p in source.paths] == ["9.png"]
    assert source[0]["label"] == 1  # classes stay numbered
    with pytest.raises(DataError, match="no images from number 2 on"):
        ImageFolder(root, per_class=[2, 3])


@pytest.mark.parametrize("wrong", [[1], [2, 2], [-1, 2], [0, 1.5], "09"])
def test_what_is_no_range_is_refused(folder, wrong):
    with pytest.raises(ConfigError, match="per_class must be"):
        ImageFolder(folder[0], per_class=wrong)


def test_a_relative_root_is_below_zoo_data(folder, monkeypatch):
    root, _ = folder
    monkeypatch.setenv("ZOO_DATA", str(root.parent))
    assert data_root() == root.parent
    source = open_source({"name": "image_folder", "root": root.name, "mode": "L"})
    assert source[0]["image"].shape == (4, 6, 1)


def test_images_of_any_size_train_after_a_resize(folder):
    root, _ = folder
    Image.new("RGB", (9, 3)).save(root / "b" / "large.png")
    transform = [{"name": "resize", "size": 5}]
    with train_batches(
        ImageFolder(root), batch_size=4, seed=0, transform=transform
    ) as batches:
        batch = next(batches)
    assert batch["image"].shape == (4, 5, 5, 3)
    assert sorted(batch["id"]) == [0, 1, 2, 3]


def test_a_damaged_file_is_named(folder):
    root, _ = folder
    (root / "b" / "10.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(MediaError, match=r"b/10\.png"):
        ImageFolder(root)[1]


@pytest.mark.parametrize("name", ["absent", "empty", "flat"])
def test_a_folder_of_another_layout_names_the_expected_one(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "flat" / "x.png")
    with pytest.raises(
        DataError, match=rf"expected .*{name}/<class>/<image> with .bmp"
    ):
        ImageFolder(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "match"), [("", "ZOO_DATA is not set"), ("/no/where", "is not a folder")]
)
def test_the_variable_is_checked(monkeypatch, value, match):
    monkeypatch.setenv("ZOO_DATA", value)
    with pytest.raises(DataError, match=match):
        ImageFolder("relative")
