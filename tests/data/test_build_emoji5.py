"""The builder of the embedded pictures: safe reading of tarballs, joining of names, comparison of packs."""

import importlib.util
import io
import json
import pathlib
import shutil
import tarfile

import numpy as np
from PIL import Image
import pytest

from mof_jax.data.worlds import embedded, pack
from mof_jax.errors import UserError

pytest.importorskip("rich")
SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "build_emoji5.py"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_emoji5", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tarball(path, *names):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"{}"))
    return path


@pytest.mark.parametrize("name", ["../icons.json", "package/../../icons.json", "/package/icons.json"])
def test_a_member_that_leaves_its_folder_is_refused(builder, tmp_path, name):
    path = _tarball(tmp_path / "a.tgz", name)
    with pytest.raises(UserError, match="unsafe member"):
        builder.read_json(path, "icons.json")


def test_only_the_named_member_is_read(builder, tmp_path):
    path = _tarball(tmp_path / "a.tgz", "package/icons.json", "package/other.json")
    assert builder.read_json(path, "icons.json") == {}
    with pytest.raises(UserError, match="no chars.json"):
        builder.read_json(path, "chars.json")
    assert [name for name, _ in builder.members(path, r".*\.json")] == ["icons.json", "other.json"]


def test_a_changed_package_is_refused(builder, tmp_path):
    (tmp_path / "iconify-json-noto-1.2.9.tgz").write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256"):
        builder.tarball("noto", tmp_path)


def test_names(builder):
    assert builder.key("1F3F3-FE0F-200D-1F308") == "1f3f3-200d-1f308"
    assert builder.slug("woman’s hat") == "womans-hat" and builder.slug("flag: Côte d’Ivoire") == "flag-cote-divoire"
    assert builder.circle_flag("1f1e9-1f1ea") == "de" and builder.circle_flag("1f600") is None
    assert builder.circle_flag("1f1fa-1f1f3") == "other/un"


def test_aliases_and_mirrors(builder):
    icons = {
        "prefix": "x",
        "width": 10,
        "height": 20,
        "icons": {"left": {"body": "<b/>"}},
        "aliases": {
            "right": {"parent": "left", "hFlip": True},
            "back": {"parent": "right", "hFlip": True},
            "turned": {"parent": "left", "rotate": 1},
        },
    }
    assert 'viewBox="0 0 10 20"' in builder.to_svg(icons, "left")
    assert 'scale(-1 1)"><b/></g>' in builder.to_svg(icons, "right")
    assert builder.to_svg(icons, "back") == builder.to_svg(icons, "left")
    assert builder.to_svg(icons, "nobody") is None
    with pytest.raises(UserError, match="turned"):
        builder.to_svg(icons, "turned")


def test_render(builder):
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" viewBox="0 0 2 2">%s</svg>'
    drawn = builder.render(svg % '<path fill="#f00" d="M0 0h1v2H0z"/>')
    pixels = np.asarray(Image.open(io.BytesIO(drawn)))
    assert pixels.shape == (64, 64, 3)
    assert pixels[32, 8, 0] > 200 and pixels[32, 8, 2] < 60  # red on the left, white on the right
    assert pixels[32, 56].min() > 250
    assert builder.render(svg % '<path fill="#fff" d="M0 0h1v2H0z"/>') is None  # shows nothing


def test_compare(builder, tmp_path):
    other = pathlib.Path(shutil.copytree(embedded.ROOT, tmp_path / "emoji5"))
    assert "byte for byte" in builder.compare(other, embedded.ROOT)
    opened = pack.read(str(embedded.ROOT))
    images: dict[str, dict[int, bytes]] = {}
    for picture in opened.pictures:
        images.setdefault(picture.vendor, {})[picture.concept] = opened.image(picture)
    last = opened.pictures[-1]
    black = io.BytesIO()
    Image.new("RGB", (64, 64)).save(black, "WEBP")
    images[last.vendor][last.concept] = black.getvalue()
    sizes = {vendor: {n: len(image) for n, image in table.items()} for vendor, table in images.items()}
    files = {
        "index.json": pack.encode_index(opened.concepts, sizes),
        "images.bin": b"".join(image for table in images.values() for image in table.values()),
    }
    manifest = json.loads((other / "manifest.json").read_text())
    for name, content in files.items():
        (other / name).write_bytes(content)
        manifest["files"][name] = builder.entry(content)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="pixels differ"):
        builder.compare(other, embedded.ROOT)
