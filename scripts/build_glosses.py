"""Makes `mof_jax/data/worlds/wordnet/glosses.tsv`: what WordNet says about the words that the embedded pictures are named with.

    python scripts/build_glosses.py FOLDER

FOLDER holds WordNet 3.0's `data.noun` and `index.noun` (Debian: `apt-get download wordnet-base`, then
`dpkg-deb -x FILE.deb DIR`, which puts them under `DIR/usr/share/wordnet`). One line a term, `term <TAB> gloss`, sorted.

A name of a picture takes the first sense that is a thing (animal, artifact, food, object, plant), any other word its
first sense, which is the most frequent one. Examples of use are left out, and so are glosses that insult.
"""

from __future__ import annotations

import pathlib
import re
import sys

from mof_jax.data.worlds import embedded, pack

OUT = pathlib.Path(embedded.__file__).parent / "wordnet" / "glosses.tsv"
THINGS = {5, 6, 13, 17, 20}  # numbers of WordNet's lexicographer files
TERM = re.compile(r"[a-z][a-z '-]{2,}")
LEFT_OUT = re.compile(r"slur|offensive|obscene|vulgar|slang|disparag|sexual|foreplay|genital|homosexual|excre|seductive", re.I)


def read(folder: pathlib.Path) -> tuple[dict[str, tuple[int, str]], dict[str, list[str]]]:
    """(synset -> (lexicographer file, gloss), lemma -> its synsets, most frequent first)."""
    synsets, lemmas = {}, {}
    for line in open(folder / "data.noun", encoding="latin-1"):
        if not line.startswith("  "):  # the licence stands in front, indented
            synsets[line[:8]] = (int(line[9:11]), line.partition(" | ")[2].split('; "')[0].strip())
    for line in open(folder / "index.noun", encoding="latin-1"):
        if not line.startswith("  "):
            words = line.split()
            lemmas[words[0].replace("_", " ")] = words[-int(words[2]) :]
    return synsets, lemmas


def main(folder: str) -> None:
    """Writes the file."""
    synsets, lemmas = read(pathlib.Path(folder))
    concepts = pack.read(str(embedded.ROOT)).concepts
    names = {concept.label.lower() for concept in concepts}
    terms = names | {tag.lower() for concept in concepts for tag in concept.tags}
    lines = []
    for term in sorted(term for term in terms if TERM.fullmatch(term) and term in lemmas):
        senses = [synsets[synset] for synset in lemmas[term]]
        things = [gloss for file, gloss in senses if file in THINGS] if term in names else []
        gloss = (things or [gloss for _, gloss in senses])[0]
        if not LEFT_OUT.search(gloss):
            lines.append(f"{term}\t{gloss}\n")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(lines), encoding="utf-8")
    print(f"{OUT}: {len(lines)} terms, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
