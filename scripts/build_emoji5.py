"""Builds `mof_jax/data/worlds/emoji5`, the embedded picture pack, from pinned npm packages of SVG artwork.

    pip install -e .[pack]
    python scripts/build_emoji5.py --out mof_jax/data/worlds/emoji5            # fetches 30 MB with `npm pack`
    python scripts/build_emoji5.py --packages DIR --check               # rebuilds, compares with what is committed

With resvg-py 0.5.0, Pillow 13.0.0 (libwebp 1.6.0) and liblzma 5.x the files come out byte for byte the same. Other
renderers draw an edge a little differently: `--check` then compares decoded pixels, within 2/255, and says so.

Steps: read the icon sets out of the tarballs in memory (nothing is unpacked to disk), join them with the emoji names on
the code points with FE0F removed, resolve aliases and mirrored icons, render at 64 px on white, drop blank pictures,
find the families that share a picture, split, write. FxEmoji is left out on purpose: see `emoji5/NOTICE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import concurrent.futures
import hashlib
import importlib.metadata
import io
import json
import lzma
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata

import numpy as np
from PIL import Image, features
from rich.progress import track

from mof_jax.data.worlds import families, pack
from mof_jax.data.worlds.embedded import EVAL_VENDORS, ROOT, TRAIN_VENDORS
from mof_jax.errors import UserError, exit_code

SIZE = 64  # pixels
QUALITY = 80  # of the WebP files
BLANK = 4.0  # standard deviation in 1/255 below which a picture shows nothing
MAX_MEMBER = 256 << 20  # bytes of one file inside a tarball; the largest is 104 MB
COMPONENTS = 2  # emojibase's group of skin tones and hair styles
FLAGS = 9  # emojibase's group of flags

PACKAGES = {  # npm package and version
    "noto": ("@iconify-json/noto", "1.2.9"),
    "noto-v1": ("@iconify-json/noto-v1", "1.2.5"),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "circle-flags": ("circle-flags", "2.8.3"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5"),
    "names": ("emojibase-data", "17.0.0"),
}
SHA256 = {  # of the tarballs
    "noto": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "noto-v1": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "fluent": "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    "fluent-flat": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "circle-flags": "a53d254c010bb22955e7823c406ec80b8176ffff05758fd21bf5151512c0e56a",
    "twemoji": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "names": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}
NAMED_BY_HEX = ("noto", "fluent-flat", "twemoji")  # the sets that come with a table of code points
CIRCLE_FLAGS = {  # flags that are not a country's two letters; languages have files of the same two letters elsewhere
    "1f3c1": "other/checkered",
    "1f1fa-1f1f3": "other/un",
    "1f3f3-200d-1f308": "other/lgbt",
    "1f3f3-200d-26a7": "other/lgbt-transgender",
    "1f3f4-200d-2620": "other/jolly_roger",
    "1f3f4-e0067-e0062-e0065-e006e-e0067-e007f": "gb-eng",
    "1f3f4-e0067-e0062-e0073-e0063-e0074-e007f": "gb-sct",
    "1f3f4-e0067-e0062-e0077-e006c-e0073-e007f": "gb-wls",
}
WRONG = {  # found by eye on contact sheets: the picture contradicts the caption
    ("noto-v1", "1f997"),  # "cricket", an old alias of the game, under the insect
    ("fluent-flat", "1f533"),  # "white square button", drawn as a black square
}


# --- packages ---------------------------------------------------------------------------------------------------------


def tarball(vendor: str, folder: pathlib.Path) -> pathlib.Path:
    """The vendor's tarball in `folder`, fetched with `npm pack` if it is not there, its checksum compared."""
    package, version = PACKAGES[vendor]
    path = folder / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=folder, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error).encode()
            raise UserError(f"npm pack {package}@{version}: {reason.decode().strip()[-300:]}") from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[vendor]:
        raise UserError(f"{path}: SHA-256 {found}, expected {SHA256[vendor]}")
    return path


def members(path: pathlib.Path, wanted: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the regular files matching the regular expression `wanted`, read in memory.

    Raises:
      UserError: a member would leave the package's folder, or is larger than `MAX_MEMBER`.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            parts = pathlib.PurePosixPath(member.name).parts
            if member.name.startswith("/") or ".." in parts:
                raise UserError(f"{path}: unsafe member {member.name!r}")
            name = "/".join(parts[1:])
            if member.isfile() and re.fullmatch(wanted, name):
                if member.size > MAX_MEMBER:
                    raise UserError(f"{path}: {member.name} holds {member.size} bytes")
                yield name, archive.extractfile(member).read()


def read_json(path: pathlib.Path, name: str) -> dict:
    """One JSON file of a tarball."""
    for _, content in members(path, re.escape(name)):
        return json.loads(content)
    raise UserError(f"{path}: no {name} inside")


# --- names ------------------------------------------------------------------------------------------------------------


def key(hexcode: str) -> str:
    """The join key: lower-case code points without the variation selector FE0F."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def slug(label: str) -> str:
    """The name icon sets give a label: `woman’s hat` → `womans-hat`."""
    ascii_ = unicodedata.normalize("NFKD", label.lower()).replace("’", "'").encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_.replace("'", "")).strip("-")


def read_names(path: pathlib.Path) -> tuple[list[dict], dict[str, dict]]:
    """The emoji in Unicode order (skin tones and components skipped), and the captions of every other language.

    Returns:
      English entries of emojibase, and locale → {"labels": [n], "tags": [n][any]} aligned with them.
    """
    tables = {name.split("/")[0]: json.loads(text) for name, text in members(path, r"[a-z-]+/data\.json")}
    english = [e for e in tables.pop("en") if e.get("group") not in (None, COMPONENTS)]
    english.sort(key=lambda e: e["order"])
    captions = {}
    for locale, entries in sorted(tables.items()):
        found = {e["hexcode"]: e for e in entries}
        rows = [found[e["hexcode"]] for e in english]
        captions[locale] = {"labels": [r["label"] for r in rows], "tags": [r.get("tags", []) for r in rows]}
    return english, captions


# --- artwork ----------------------------------------------------------------------------------------------------------


def to_svg(icons: Mapping, name: str) -> str | None:
    """One icon of an Iconify set as an SVG document, following aliases and their mirroring; None if there is none."""
    flip = False
    while name not in icons["icons"]:
        alias = icons.get("aliases", {}).get(name)
        if alias is None:
            return None
        if set(alias) - {"parent", "hFlip", "hidden"}:
            raise UserError(f"{icons['prefix']}: alias {name} has a transform this script does not know: {alias}")
        flip ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    body = f'<g transform="translate({width} 0) scale(-1 1)">{icon["body"]}</g>' if flip else icon["body"]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" '
        f'height="{SIZE}" viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{body}</svg>'
    )


def names_by_hex(tables: Mapping[str, Mapping[str, str]], english: list[dict]) -> dict[str, list[str]]:
    """Every name an icon set may use for an emoji: the sets' own code-point tables first, then its label's slug."""
    names = {key(e["hexcode"]): [] for e in english}
    for table in tables.values():
        for hexcode, name in table.items():
            names.get(key(hexcode), []).append(name)
    for e in english:
        names[key(e["hexcode"])].append(slug(e["label"]))
    return names


def circle_flag(hexcode: str) -> str | None:
    """The file circle-flags keeps a flag in, without folder and ending: `1f1e9-1f1ea` → `de`."""
    if hexcode in CIRCLE_FLAGS:
        return CIRCLE_FLAGS[hexcode]
    points = [int(part, 16) - 0x1F1E6 for part in hexcode.split("-")]
    if len(points) == 2 and all(0 <= p < 26 for p in points):
        return "".join(chr(ord("a") + p) for p in points)
    return None


def artwork(paths: Mapping[str, pathlib.Path], english: list[dict]) -> Iterator[tuple[str, int, str]]:
    """Vendor, concept number and SVG of every picture, vendors in turn, concepts in order."""
    tables = {vendor: read_json(paths[vendor], "chars.json") for vendor in NAMED_BY_HEX}
    shared = names_by_hex(tables, english)
    for vendor in TRAIN_VENDORS + EVAL_VENDORS:
        if vendor == "circle-flags":
            files = dict(members(paths[vendor], r"flags/(other/)?[^/]+\.svg"))
        else:
            icons = read_json(paths[vendor], "icons.json")
            own = {key(h): name for h, name in tables.get(vendor, {}).items()}
        for number, hexcode in enumerate(key(e["hexcode"]) for e in english):
            if (vendor, hexcode) in WRONG:
                continue
            if vendor == "circle-flags":
                svg = files.get(f"flags/{circle_flag(hexcode)}.svg", b"").decode()
            else:
                names = [own[hexcode]] if hexcode in own else shared[hexcode]
                svg = next((svg for svg in (to_svg(icons, name) for name in names) if svg), None)
            if svg:
                yield vendor, number, svg


def render(svg: str) -> bytes | None:
    """The SVG on white as a WebP file of SIZE x SIZE pixels, or None if it shows nothing.

    Fonts of this machine are not read: no picture may depend on them.
    """
    import resvg_py  # only the builder needs it

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if image.size != (SIZE, SIZE):
        raise ValueError(f"rendered at {image.size}")
    if np.asarray(image, np.float32).std() < BLANK:
        return None
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def rendered(jobs: list[tuple[str, int, str]], cache: pathlib.Path | None) -> dict[str, dict[int, bytes]]:
    """Vendor → concept → WebP file, rendered on every core; `cache` keeps what was rendered before."""
    paths = {svg: cache / hashlib.sha256(svg.encode()).hexdigest() if cache else None for _, _, svg in jobs}
    done = {svg: path.read_bytes() for svg, path in paths.items() if path and path.exists()}
    missing = [svg for svg in paths if svg not in done]  # each drawing once, although two concepts may share it
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as workers:
        fresh = workers.map(render, missing, chunksize=8)
        for svg, image in track(zip(missing, fresh), "rendering", total=len(missing)):
            done[svg] = image or b""
            if paths[svg]:
                paths[svg].write_bytes(done[svg])
    images: dict[str, dict[int, bytes]] = {}
    for vendor, number, svg in jobs:
        if done[svg]:
            images.setdefault(vendor, {})[number] = done[svg]
        else:
            print(f"left out, blank: {vendor} {number}")
    return images


# --- the pack ---------------------------------------------------------------------------------------------------------


def split(english: list[dict], images: Mapping[str, Mapping[int, bytes]]) -> list[pack.Concept]:
    """The concepts with their families, joined where a vendor draws two with one picture, and their side."""
    seen: dict[tuple[str, bytes], int] = {}
    twins = []
    for vendor, table in images.items():
        for number, image in table.items():
            first = seen.setdefault((vendor, image), number)
            if first != number:
                twins.append((first, number))
    names = families.join([families.family(e["label"]) for e in english], twins)
    return [
        pack.Concept(
            number=number,
            hex=key(e["hexcode"]),
            label=e["label"],
            tags=tuple(e.get("tags", ())),
            family=name,
            flag=e["group"] == FLAGS,
            held_out=families.held_out(name),
        )
        for number, (e, name) in enumerate(zip(english, names))
    ]


def candidate_list(concepts: list[pack.Concept], images: Mapping[int, bytes], held_out: bool) -> bytes:
    """One evaluation list: concepts of one side that the evaluation vendor draws."""
    chosen = [c for c in concepts if c.held_out == held_out and c.number in images]
    return "".join(f"{c.hex}\t{c.label}\n" for c in chosen).encode()


def build(out: pathlib.Path, packages: pathlib.Path, cache: pathlib.Path | None) -> None:
    """Writes the pack into `out`; the licence files beside it are left as they are."""
    paths = {vendor: tarball(vendor, packages) for vendor in track(PACKAGES, "packages")}
    english, captions = read_names(paths["names"])
    images = rendered(list(artwork(paths, english)), cache)
    concepts = split(english, images)
    twemoji = images[EVAL_VENDORS[0]]
    text = json.dumps(captions, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    files = {
        "index.json": pack.encode_index(concepts, {v: {n: len(i) for n, i in t.items()} for v, t in images.items()}),
        "images.bin": b"".join(image for table in images.values() for image in table.values()),
        "locales.json.xz": lzma.compress(text.encode(), check=lzma.CHECK_CRC32, preset=9 | lzma.PRESET_EXTREME),
        "twemoji.tsv": candidate_list(concepts, twemoji, held_out=False),
        "unseen.tsv": candidate_list(concepts, twemoji, held_out=True),
    }
    manifest = {
        "schema": pack.SCHEMA,
        "name": "emoji5",
        "pixels": SIZE,
        "locales": ["en", *captions],
        "packages": {vendor: f"{package}@{version}" for vendor, (package, version) in PACKAGES.items()},
        "renderer": renderer(),
        "files": {name: entry(content) for name, content in sorted(files.items())},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print({vendor: len(table) for vendor, table in images.items()}, f"{sum(map(len, files.values()))} bytes in {out}")


def entry(content: bytes) -> dict[str, int | str]:
    """What the manifest says of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def renderer() -> dict[str, str]:
    """What drew and packed the pictures."""
    version = importlib.metadata.version
    return {"resvg-py": version("resvg-py"), "pillow": version("pillow"), "libwebp": features.version("webp")}


def compare(made: pathlib.Path, kept: pathlib.Path) -> str:
    """Says how two packs agree.

    Raises:
      UserError: they differ in more than 2/255 of a decoded pixel.
    """
    mine, theirs = json.loads((made / "manifest.json").read_text()), json.loads((kept / "manifest.json").read_text())
    if mine["files"] == theirs["files"]:
        return "identical, byte for byte"
    new, old = pack.read(str(made)), pack.read(str(kept))
    if [(p.vendor, p.concept) for p in new.pictures] != [(p.vendor, p.concept) for p in old.pictures]:
        raise UserError(f"{kept}: not the same pictures")
    if new.concepts != old.concepts or any(new.locale(n) != old.locale(n) for n in old.locales[1:]):
        raise UserError(f"{kept}: not the same captions or split")
    worst = 0
    for a, b in track(list(zip(new.pictures, old.pictures)), "comparing"):
        first, second = (np.asarray(Image.open(io.BytesIO(x)), np.int16) for x in (new.image(a), old.image(b)))
        worst = max(worst, int(np.abs(first - second).max()))
    if worst > 2:
        raise UserError(f"{kept}: pixels differ by up to {worst}/255 (rendered by {theirs['renderer']})")
    return f"the same pictures within {worst}/255"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT, help="folder of the pack (default: %(default)s)")
    parser.add_argument("--packages", type=pathlib.Path, help="folder with the npm tarballs (default: fetch them)")
    parser.add_argument("--cache", type=pathlib.Path, help="folder that keeps rendered pictures between builds")
    parser.add_argument("--check", action="store_true", help="rebuild elsewhere and compare with --out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = args.packages or pathlib.Path(scratch) / "packages"
        if args.cache:
            args.cache.mkdir(parents=True, exist_ok=True)
        out = pathlib.Path(scratch) / "emoji5" if args.check else args.out
        build(out, packages, args.cache)
        if args.check:
            print(f"{args.out}: {compare(out, args.out)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
