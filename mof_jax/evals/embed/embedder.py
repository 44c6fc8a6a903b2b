"""Embeddings of whole sources, over all devices: what evaluators ask a model for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import copy
import functools
import zlib

from flax import nnx
import jax
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
import numpy as np

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.record import Record, Source
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import BadExample, UserError, lookup
from mof_jax.mesh import batch_sharding, batch_shards, fetch, put_batch, replicated
from mof_jax.nn.module import Params, Skeleton, flatten
from mof_jax.task import Predictor

# Decoded pictures kept between evaluations of one run, in bytes.
_CACHE_BYTES = 2 * 2**30


class Embedder:
    """What embeds, as evaluators see it. `bind` gives it parameters; `images` and `texts` embed.

    Attributes:
      on_batch: called before each batch, alike on all processes; may raise to stop.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        skeleton: Skeleton,
        mesh: Mesh,
        preprocess: Preprocess,
        tokenizer: Tokenizer | None,
        batch_size: int = 256,
        on_batch: Callable[[], None] = lambda: None,
    ):
        shards = batch_shards(mesh)
        self.skeleton, self.mesh, self.preprocess, self.tokenizer = skeleton, mesh, preprocess, tokenizer
        self.on_batch = on_batch
        self.batch_size = -(-batch_size // shards) * shards
        self._params: Params | None = None
        self._cache: dict[tuple[str, int, int], np.ndarray] = {}
        jit = lambda fn: jax.jit(lambda params, x: fn(skeleton.merge(params), x), out_shardings=replicated(mesh),
                                 in_shardings=(None, batch_sharding(mesh)))
        self._predict = {name: jit(fn) for name, fn in predictors.items()}

    def bind(self, params: Params) -> Embedder:
        """This embedder with the given parameters (all of them, by path); programs and decoded pictures are
        shared."""
        bound = copy.copy(self)
        bound._params = params
        return bound

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can be asked: `embed/image`, `embed/text`, `tokens/image`."""
        return frozenset(self._predict)

    @property
    def logit_scale(self) -> float:
        """The multiplier of the cosines.

        Raises:
          UserError: a model without one.
        """
        if "logit_scale" not in self._params:
            raise UserError("this model has no logit_scale; its embeddings are not compared by a contrastive loss")
        return float(np.exp(fetch(self._params["logit_scale"])))

    def untrained(self, seed: int = 0) -> Embedder:
        """The same model with fresh initial values, over the same decoded pictures."""
        initial = jax.jit(lambda key: flatten(self.skeleton.build(nnx.Rngs(key))))
        return self.bind(initial(jax.random.key(seed, impl="threefry2x32")))

    def pixels(self, source: Source, side: int) -> Float[np.ndarray, "records dim"]:
        """The pictures themselves, centred at grey and shrunk to `side` pixels, as features that nobody learned.

        Raises:
          BadExample: a record that cannot be decoded.
        """
        small = self.preprocess.at(side)
        rows = [picture(source[i], source.name, small).reshape(-1) for i in range(len(source))]
        return np.stack(rows).astype(np.float32) / 127.5 - 1.0

    def images(self, source: Source, which: str = "embed/image") -> Float[np.ndarray, "records dim"]:
        """What `which` makes of each record, in the source's order; decoded pictures of a small source are kept for the next
        time.

        Raises:
          BadExample: a record that cannot be decoded.
        """
        lookup(self._predict, which, "capability of this model")
        key = (source.name, len(source), _fingerprint(source))
        if key in self._cache:
            return self._embed(which, lambda rows: self._cache[key][rows], len(source))
        size = self.preprocess.image_size
        if len(source) * size * size * 3 > _CACHE_BYTES or jax.process_count() > 1:
            return self.embed_images(lambda i: source[i], source.name, len(source), which=which)
        pixels = self._cache[key] = np.empty((len(source), size, size, 3), np.uint8)
        try:
            return self.embed_images(lambda i: source[i], source.name, len(source), keep=pixels, which=which)
        except BadExample:
            del self._cache[key]
            raise

    def fingerprint(self) -> str:
        """Hex digits that change with the parameters or the preprocessing; every process has to call."""
        total = zlib.crc32(repr(self.preprocess).encode())
        for path in sorted(self._params):
            value = np.ascontiguousarray(fetch(self._params[path]))
            total = zlib.crc32(value.view(np.uint8).reshape(-1), zlib.crc32(f"{path}{value.shape}{value.dtype}".encode(), total))
        return f"{len(self._params):04x}{total:08x}"

    def embed_images(
        self, record: Callable[[int], Record], name: str, count: int, keep: np.ndarray | None = None,
        which: str = "embed/image",
    ) -> Float[np.ndarray, "count dim"]:
        """What `which` makes of `record(0)` … `record(count - 1)`; their pixels are written to `keep` if given.

        Raises:
          BadExample: a record that cannot be decoded. UserError: a model without this capability.
        """
        lookup(self._predict, which, "capability of this model")
        with ThreadPoolExecutor(max_workers=4) as pool:

            def load(rows: np.ndarray) -> np.ndarray:
                batch = np.stack(list(pool.map(lambda i: picture(record(int(i)), name, self.preprocess), rows)))
                if keep is not None:
                    keep[rows] = batch
                return batch

            return self._embed(which, load, count)

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """One embedding a text.

        Raises:
          UserError: a model that embeds none.
        """
        lookup(self._predict, "embed/text", "capability of this model")
        tokens = self.tokenizer(texts)
        return self._embed("embed/text", lambda rows: tokens[rows], len(texts))

    def _embed(self, name: str, load: Callable[[np.ndarray], np.ndarray], count: int) -> Float[np.ndarray, "count dim"]:
        """Batches of a fixed size (one compiled program); each process loads only its own rows of a batch."""
        outputs = []
        for rows, real in self._blocks(count):
            self.on_batch()
            batch = put_batch(self.mesh, {"x": load(rows)})["x"]
            outputs.append(self._predict[name](self._params, batch)[:real])
        return np.concatenate([np.asarray(x, np.float32) for x in outputs])

    def _blocks(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        local = self.batch_size // jax.process_count()
        for start in range(0, count, self.batch_size):
            first = start + local * jax.process_index()
            # The last block is padded by repeating the last row; its results are cut off.
            yield np.minimum(np.arange(first, first + local), count - 1), min(self.batch_size, count - start)


def _fingerprint(source: Source) -> int:
    """Tells sources apart that share name and size, such as two splits: a checksum of a few pictures, spread evenly."""
    records = [source[i] for i in sorted({i * (len(source) - 1) // 7 for i in range(8)})]
    return functools.reduce(lambda total, record: zlib.crc32(record.image or b"", total), records, 0)


def picture(record: Record, source: str, preprocess: Preprocess) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of a record.

    Raises:
      BadExample: it has no picture, or one that cannot be decoded.
    """
    if record.image is None:
        raise BadExample(source, record.id, "no image")
    return preprocess(record.image, source, record.id)


def records(source: Source) -> list[Record]:
    """All records of a source, to read labels and texts from."""
    return [source[i] for i in range(len(source))]
