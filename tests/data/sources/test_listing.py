"""Which files of a folder count, and the layouts that are refused."""

from __future__ import annotations

import logging

import pytest

from dlhpc.data.sources.listing import list_images, natural_key
from dlhpc.errors import DataError, NotFoundError


@pytest.fixture
def tree(tmp_path):
    """Make files (folders end with /), give the root."""

    def make(*names):
        root = tmp_path / "root"
        root.mkdir()
        for name in names:
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
        return root

    return make


def test_classes_and_files_come_in_natural_order(tree):
    root = tree("class10/a.png", "class2/img10.png", "class2/img9.JPG", "class2/img9b.webp", "b/x.gif", "b/y.bmp")
    listing = list_images(root)
    assert listing.classes == ("b", "class2", "class10")
    assert [path.relative_to(root).as_posix() for path in listing.paths] == [
        "b/x.gif",
        "b/y.bmp",
        "class2/img9.JPG",
        "class2/img9b.webp",
        "class2/img10.png",
        "class10/a.png",
    ]
    assert listing.labels.tolist() == [0, 0, 1, 1, 1, 2]


def test_natural_order_is_total():
    names = ["a1", "a01", "a001", "1", "01", "a", "", "10a2", "9", "a1b"]
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_other_files_are_left_alone_and_told(tree, caplog):
    root = tree("cat/1.png", "cat/notes.txt", "dog/1.png", "README.md", ".git/config", "cat/.hidden.png", "loose.png")
    with caplog.at_level(logging.WARNING):
        listing = list_images(root)
    assert len(listing.paths) == 2
    assert "notes.txt" in caplog.text
    assert "loose.png" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "it has no sub-folder"),
        (("a.png", "b.png"), "2 image\\(s\\) lie directly in it"),
        (("cat/1.png",), "one class only \\(cat\\)"),
        (("cat/", "dog/"), "no image .* in cat, dog"),
        (("cat/1.png", "dog/1.txt"), "no image .* in dog"),
        (("train/cat/1.png", "train/dog/1.png", "test/cat/2.png"), "with folders in it \\(cat\\)"),
    ],
)
def test_other_layouts_are_explained(tree, names, message):
    root = tree(*names)
    with pytest.raises(DataError, match=message) as caught:
        list_images(root)
    assert f"{root}/cat/1.png" in str(caught.value)


def test_a_missing_folder_and_a_file(tmp_path):
    with pytest.raises(NotFoundError, match="no such folder"):
        list_images(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="this is a file"):
        list_images(tmp_path / "file")


@pytest.mark.parametrize("what", ["file", "class"])
def test_links_out_of_the_folder_are_refused(tree, tmp_path, what):
    root = tree("cat/1.png", "dog/1.png")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.png").write_bytes(b"")
    if what == "file":
        (root / "cat" / "2.png").symlink_to(tmp_path / "outside" / "x.png")
    else:
        (root / "bird").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="symbolic link out of the data folder"):
        list_images(root)


def test_links_inside_the_folder_and_a_linked_root_are_fine(tree, tmp_path):
    root = tree("cat/1.png", "dog/1.png")
    (root / "cat" / "2.png").symlink_to("1.png")
    (tmp_path / "link").symlink_to(root)
    assert len(list_images(tmp_path / "link").paths) == 3
