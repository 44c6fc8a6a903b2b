"""A resume never becomes another run: what differs is refused by key, or kept from its step on."""

import dataclasses
import json
import shutil

from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
import numpy as np
import pytest
from run_samples import write_pool

from mof_jax import cli, run, trainer
from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.jsonl import read_lines
from mof_jax.restore import restore
from mof_jax.train.checkpoint import place
from mof_jax.train.reliability import history
from mof_jax.train.reliability.history import Change
from mof_jax.train.reliability.rollback import Rollback
from mof_jax.train.start import open_checkpoint

CACHE = None  # of compiled programs, for all runs of this file


def config(table, **changes):
    """Six steps of sixteen captions with pictures from a table, at a constant rate."""
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "contrastive", 3, 6, 16
    c.model = dict(embed_dim=8, image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=8, pool="gap", cls_token=False),
                   text=dict(width=8, depth=1, heads=1, causal=False, mask_padding=True, pool="gap"))
    c.tokenizer = dict(kind="wordlevel", vocab_size=32, context_length=4)
    c.data = dict(sources=[dict(kind="jsonl", path=str(table))], threads=0)
    c.optimizer = dict(lr=1e-3, schedule=dict(kind="constant"))
    c.compilation_cache = CACHE
    c.checkpoint, c.log_every, c.eval_every = dict(every=0, asynchronous=False), 1, None
    return configs.override(c, [f"{key}={value!r}" for key, value in changes.items()])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("table")) / "pool.jsonl"


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    """A work dir after its sixth and last step."""
    global CACHE
    CACHE, workdir = str(tmp_path_factory.mktemp("xla")), tmp_path_factory.mktemp("done")
    trainer.train(config(table), str(workdir))
    return workdir


@pytest.fixture
def workdir(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


REFUSED = {
    "optimizer.lr": 1e-5, "optimizer.schedule.kind": "cosine", "optimizer.schedule.warmup": 2, "optimizer.weight_decay": 0.5,
    "batch_size": 8, "seed": 9, "objective.kind": "sigmoid", "objective.label_smoothing": 0.1, "model.text.dropout": 0.5,
    "model.image.patch_dropout": 0.5, "model.dtype": "bfloat16", "tokenizer.vocab_size": 24, "tokenizer.kind": "bpe",
    "data.augment.flip": 0.5, "data.sources.0.weight": 2.0, "data.sources.0.skip": 4, "data.shuffle": False,
    "data.resample": "bilinear", "precision": "highest", "optimizer.freeze": [("text/.*", True)], "optimizer.ema": 0.9}


def going_on(workdir, config, *allowed):
    """What `trainer.train` finds out before anything is done."""
    meta, now = open_checkpoint(str(workdir))[1], run.resolve(config)
    return history.go_on(history.config_of(meta, run.resolve, now), now, 6, str(workdir), meta["content"], allowed)


@pytest.mark.parametrize("key", REFUSED)
def test_what_decides_data_rate_or_arithmetic_is_refused_by_name(done, table, key):
    """In one line with key, old and new; and taken where it is allowed, whole sections too."""
    changed = config(table, steps=10, **{key: REFUSED[key]})
    with pytest.raises(UserError) as caught:
        going_on(done, changed)
    old = configs.flatten(configs.to_dict(run.resolve(config(table)))).get(key, ())
    named = str(caught.value).replace("freeze.0.0", "freeze")
    assert named.startswith(f"config.{key}: {done} was trained with ") and f"--allow-change {key}" in named
    assert not isinstance(old, (int, float, str)) or f"trained with {old!r} until step 6 and would go on with" in named
    for allowed in (key, f"config.{key}", key.partition(".")[0]):
        assert {k.replace("freeze.0.0", "freeze").replace("freeze.0.1", "freeze") for k in going_on(
            done, changed, allowed, *(["steps"] if "schedule" in key else []))} >= {key}


def test_a_refusal_leaves_the_work_dir_as_it_was(workdir, table):
    before = {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"config.seed: .*; and so do optimizer.lr \(0.001 → 1e-05\)"):
        trainer.train(config(table, steps=10, **{"optimizer.lr": 1e-5, "seed": 9}), str(workdir))
    assert {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()} == before


def test_every_key_of_a_config_has_a_verdict():
    """Of what the product has today: all that is not named as free, or noted, is refused."""
    keys = configs.flatten(configs.to_dict(run.resolve(config("t.jsonl"))))
    free = {key for key in keys if history.verdict(key) == history.FREE}
    assert {key.partition(".")[0] for key in free} == {
        "mesh", "hardware", "checkpoint", "watchdog", "evals", "eval_every", "eval_ema", "eval_batch_size", "log_every",
        "profile", "compilation_cache", "data", "model", "objective", "microbatches"}
    assert {key for key in free if key.startswith(("data", "model", "objective"))} == {
        "data.threads", "data.prefetch", "data.workers", "data.chunk", "data.cache", "data.cache_gb", "data.sources.0.name",
        "data.sources.0.cache_dir", "model.image.remat", "model.image.unroll", "model.image.kernel", "model.text.remat",
        "model.text.unroll", "model.text.kernel", "objective.block_size"}
    assert {key for key in keys if history.verdict(key) == history.NOTED} >= {"data.on_error", "spikes.nonfinite"}


def test_what_changes_nothing_is_free_and_steps_may_grow_at_a_constant_rate(workdir, table):
    changes = {"data.prefetch": 1, "checkpoint.every": 2, "microbatches": 2, "eval_batch_size": 8,
               "model.image.remat": "full"}
    trainer.train(config(table, steps=8, **changes), str(workdir))
    assert [line["step"] for line in read_lines(str(workdir / "metrics.jsonl"))] == list(range(1, 9))
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["steps"], summary["examples"]) == (8, 128) and history.KEY not in summary
    assert summary["flops"] == 8 * summary["flops_per_step"]


@pytest.mark.parametrize("schedule, grows", [
    (dict(kind="cosine"), False), (dict(kind="constant"), True), (dict(kind="wsd", cooldown=2), False),
    (dict(kind="rsqrt"), True), (dict(kind="constant", warmup=3), True)])
def test_steps_may_grow_where_the_rates_of_the_steps_done_stay(done, table, schedule, grows):
    """Not with a cosine, which ends at the last step, nor in the middle of a cooldown."""
    meta, now = open_checkpoint(str(done))[1], config(table, steps=8)
    meta["config"]["optimizer"]["schedule"], now.optimizer.schedule = schedule, schedule
    now = run.resolve(now)
    before = history.config_of(meta, run.resolve, now)
    if grows:
        assert history.go_on(before, now, 6, str(done)) == {}
    else:
        with pytest.raises(UserError, match=r"config.steps: .* with 6 until step 6 and would go on with 8 \(its schedule"):
            history.go_on(before, now, 6, str(done))
        assert history.go_on(before, now, 6, str(done), None, ["steps"]) == {"steps": (6, 8)}
    assert history.go_on(before, dataclasses.replace(now, steps=6), 6, str(done)) == {}


def test_steps_that_are_done_stay_done(workdir, table):
    with pytest.raises(UserError, match="config.steps: .* is after step 6 already, and 4 would end before"):
        trainer.train(config(table, steps=4), str(workdir), ["steps"])


def test_a_change_that_is_allowed_is_kept_with_its_step(workdir, table, capsys):
    changed = config(table, steps=8, **{"optimizer.lr": 1e-5, "optimizer.weight_decay": 0.5})
    trainer.train(changed, str(workdir), ["config.optimizer"])
    assert "after step 6: optimizer.lr 0.001 → 1e-05, optimizer.weight_decay 0.0001 → 0.5" in capsys.readouterr().out
    rates = {line["step"]: line["lr"] for line in read_lines(str(workdir / "metrics.jsonl"))}
    assert rates == {step: 1e-3 if step <= 6 else pytest.approx(1e-5) for step in range(1, 9)}
    meta = open_checkpoint(str(workdir))[1]
    for found in (meta, *(json.loads((workdir / name).read_text()) for name in ("config.json", "summary.json"))):
        change, = history.saved(found)
        assert change.step == 6 and change.examples == 96
        assert change.keys == {"optimizer.lr": (1e-3, 1e-5), "optimizer.weight_decay": (1e-4, 0.5)}
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["lr"] == 1e-5
    assert going_on(workdir, changed) == {}, "it is the run's own now"


def test_another_batch_size_goes_on_behind_the_last_example(workdir, table):
    """Examples are counted over the whole history, and none is seen twice, nor passed over but to fill a batch."""
    larger = config(table, steps=8, batch_size=64, **{"data.sources.0.filter": {"rules": {"dfn": {"minimum": 0.0}}}})
    trainer.train(larger, str(workdir), ["batch_size", "data.sources.0"])
    counted = {line["step"]: line["examples"] for line in read_lines(str(workdir / "metrics.jsonl"))}
    assert counted == {step: 16 * step if step <= 6 else 96 + 64 * (step - 6) for step in range(1, 9)}
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["examples"] == 224
    change, = history.saved(summary)
    assert summary["flops"] == change.flops + 2 * summary["flops_per_step"] and change.flops != 6 * summary["flops_per_step"]
    meta = open_checkpoint(str(workdir))[1]
    back, = meta["rollbacks"]
    assert (back["step"], back["until"]) == (6, 2) and meta["examples"] == 224  # 96 examples are one and a half batches of 64


def test_a_table_that_changed_is_noticed_and_one_that_moved_is_not_refused(workdir, table, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in table.parent.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    trainer.train(config(moved / table.name, steps=7), str(workdir))
    rows = (moved / table.name).read_text().splitlines()
    for text in (rows[:-4], [*rows[:-1], rows[-1].replace("noise", "NOISE")]):
        (moved / table.name).write_text("\n".join(text) + "\n")
        with pytest.raises(UserError, match=r"config.data.sources.0.content.(records|digest|file): .* until step 7"):
            trainer.train(config(moved / table.name, steps=8), str(workdir))
    trainer.train(config(moved / table.name, steps=8), str(workdir), ["data.sources.0.content"])
    assert "data.sources.0.content.digest" in history.saved(json.loads((workdir / "summary.json").read_text()))[0].keys


def test_a_packed_pipeline_stands_where_its_cursor_does():
    kept = {"batch_size": (8, 4)}
    assert history.changed(kept, [], [], 6, 1.0, 4, counted=False)[1] == []
    assert history.changed(kept, [], [], 6, 1.0, 4)[1] == [Rollback(0, 6, 6, 12, "batch_size 8 → 4")]


def test_what_a_rollback_has_skipped_stays_skipped():
    """It went back to the step of the change, and its process was killed before the next checkpoint."""
    back = Rollback(1, 6, 6, 10, "a jump")
    *_, last = history.changed({"batch_size": (8, 64)}, [], [back], 6, 1.0, 64)[1]
    assert (last.number, last.until) == (1, 10)


def test_what_lies_beside_a_work_dir_moves_with_it_and_nothing_else_does(done, table):
    """A vocabulary of the same name elsewhere is another one."""
    meta, now = open_checkpoint(str(done))[1], run.resolve(config(table))
    before = history.config_of(meta, run.resolve, now) | {"tokenizer.path": "/old/words.json"}
    at = lambda path: dataclasses.replace(now, tokenizer=dataclasses.replace(now.tokenizer, path=path))
    assert history.go_on(before, at("/new/words.json"), 6, "/new/run", was="/old/run") == {}
    assert history.go_on(before, at("/old/words.json"), 6, "/new/run", was="/old/run") == {}
    for path, was in (("/new/words.json", None), ("/new/words.json", "/elsewhere/run"), ("/new/other.json", "/old/run")):
        with pytest.raises(UserError, match="config.tokenizer.path: .* was trained with '/old/words.json'"):
            history.go_on(before, at(path), 6, "/new/run", was=was)


def test_other_evaluators_of_a_finished_run_add_their_results(workdir, table):
    """Those of before stay, in the log and in the summary."""
    loss = lambda name: dict(kind="contrastive_loss", name=name, source=dict(kind="jsonl", path=str(table)), candidates=8,
                             texts=["alt"])
    asked = lambda *names: configs.override(config(table), ["eval_every=0", f"evals={[loss(name) for name in names]!r}"])
    trainer.train(asked("first"), str(workdir))
    trainer.train(asked("second"), str(workdir))
    trainer.train(asked("second"), str(workdir))
    trainer.train(config(table), str(workdir))
    assert [line["name"] for line in read_lines(str(workdir / "evals.jsonl"))] == ["first", "second"]
    assert set(json.loads((workdir / "summary.json").read_text())["evals"]) == {"first", "second"}


def test_staged_runs_take_keys_of_any_stage_and_share_no_work_dir(done, table, tmp_path):
    values = config(table).to_dict()
    staged = {"stages": [{"name": "a", **values}, {"name": "b", **values, "seed": 4}]}
    with pytest.raises(UserError, match="a run without stages is there"):
        trainer.train(staged, str(done))
    (tmp_path / "stages.json").write_text('{"stages": ["a"]}')
    with pytest.raises(UserError, match="a staged run is there"):
        trainer.train(config(table), str(tmp_path))
    shutil.copytree(done, tmp_path / "a")
    staged["stages"][0]["seed"] = 9
    with pytest.raises(UserError, match="config.seed: .*/a was trained with 3 until step 6 and would go on with 9"):
        trainer.train(staged, str(tmp_path))
    assert (tmp_path / "stages.json").read_text() == '{"stages": ["a"]}', "refused before anything is written"
    with pytest.raises(UserError, match="--allow-change sed: no such key"):
        trainer.train(staged, str(tmp_path), ["sed"])
    runs = run.resolve_stages(staged)
    assert history.of_run(["seed", "data.sources.1.weight"], runs["a"]) == ["seed"]


@pytest.mark.parametrize("edit", ["caption", "picture", "filter"])
def test_what_a_source_holds_is_told_wherever_it_lies(table, tmp_path, edit):
    """One word in one row of many, one picture, another choice of rows; not a copy, nor a touch."""
    from mof_jax.data.filter import Subset
    from mof_jax.data.identity import content
    from mof_jax.data.sources import SOURCES
    from mof_jax.data.sources.jsonl import TableSource

    there = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    with open(there, "a") as file:
        file.writelines(f'{{"id": "x{i}", "image": "000.png", "alt": "more {i}"}}\n' for i in range(500))
    wanted = SOURCES["jsonl"](path=str(there))
    seen = lambda rows=slice(None): content(wanted, source := TableSource(str(there)),
                                            Subset(source, np.arange(len(source))[rows]))
    before = seen()
    there.touch()
    assert seen() == before and before["records"] == 540
    if edit == "caption":
        there.write_text(there.read_text().replace("more 333", "more 334"))
    elif edit == "picture":
        (there.parent / "000.png").write_bytes((there.parent / "001.png").read_bytes())
    after = seen(slice(1, None) if edit == "filter" else slice(None))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"caption": {"file"}, "picture": {"digest"}, "filter": {"kept", "chosen"}}[edit]


@pytest.mark.parametrize("section, key", [
    ({"fields": {"label": {"kind": "label"}}}, "data.fields.label"),
    ({"order": {"kind": "grouped", "size": 8}}, "data.order"),
])
def test_what_a_field_or_an_order_reads_is_told_from_another_file(workdir, table, section, key):
    """The file may lie elsewhere; what it holds has to be what it was."""
    def at(path):
        wanted = config(table, steps=7).to_dict()
        data = wanted["data"] | section
        (data["fields"]["label"] if "fields" in section else data["order"])["path"] = path
        return run.resolve(wanted | {"data": data})

    meta = open_checkpoint(str(workdir))[1]
    content = lambda digest: meta["content"] | (
        {"fields": {"label": {"content": {"0": {"digest": digest}}}}} if "fields" in section else
        {"order": {"content": {"0": {"digest": digest}}}})
    there = meta | {"config": configs.to_dict(at("a.npy")), "content": content("one")}
    before = history.config_of(there, run.resolve, at("a.npy"))
    assert history.go_on(before, at("elsewhere/b.npy"), 6, str(workdir), content("one")) == {}
    with pytest.raises(UserError, match=f"config.{key}.content.0.digest: .*'one'.*'two'"):
        history.go_on(before, at("a.npy"), 6, str(workdir), content("two"))


def test_an_order_by_shares_of_the_run_does_not_take_other_steps(workdir, table):
    def over(steps, begin):
        wanted = config(table, steps=steps).to_dict()
        return run.resolve(wanted | {"data": wanted["data"] | {"order": {"weights": [(begin, {})]}}})

    go_on = lambda begin: history.go_on(configs.flatten(configs.to_dict(over(6, begin))), over(7, begin), 6, str(workdir))
    assert go_on(3) == {}
    with pytest.raises(UserError, match="config.steps: .* 6 .* 7"):
        go_on(0.5)


def test_a_vocabulary_that_may_change_does_change(workdir, table):
    trainer.train(config(table, steps=7, **{"tokenizer.strip_punctuation": False}), str(workdir), ["tokenizer"])
    assert open_checkpoint(str(workdir))[1]["tokenizer"]["config"]["strip_punctuation"] is False


def test_a_key_that_does_not_exist_is_not_allowed(workdir, table):
    with pytest.raises(UserError, match=r"--allow-change optimzer.lr: no such key .*did you mean 'optimizer.lr'"):
        trainer.train(config(table, steps=7), str(workdir), ["optimzer.lr"])
    trainer.train(config(table), str(workdir), ["optimizer.lr"])  # one that did not change may be named


def test_an_old_checkpoint_without_content_goes_on(workdir, table):
    meta = open_checkpoint(str(workdir))[1]
    old = {key: value for key, value in meta.items() if key != "content"}
    del old["config"]["watchdog"]
    now = run.resolve(config(table, steps=7))
    before = history.config_of(old, run.resolve, now)
    assert history.go_on(before, now, 6, str(workdir), {"sources": [{"content": {"records": 1}}]}) == {}
    elsewhere = run.resolve(config(table.parent / "other.jsonl", steps=7))
    with pytest.raises(UserError, match="config.data.sources.0.path"):
        history.go_on(before, elsewhere, 6, str(workdir))
    unknown = {**old, "config": old["config"] | {"gone": 1, "seed": 4}}
    with pytest.raises(UserError, match="config.seed: .* trained with 4 .* go on with 3"):
        history.go_on(history.config_of(unknown, run.resolve, now), now, 6, str(workdir))


def test_two_runs_do_not_share_a_work_dir(done, table):
    with place.taken(str(done)), pytest.raises(UserError, match=r"process \d+ on .* trains there; wait for it"):
        trainer.train(config(table, steps=7), str(done))


def test_the_command(done, table, tmp_path, capsys, monkeypatch):
    file = tmp_path / "c.py"
    file.write_text(f"import json, ml_collections\ndef get_config():\n    return ml_collections.ConfigDict(json.loads("
                    f"{json.dumps(config(table, steps=7).to_json())}))\n")
    args = ["train", "--config", str(file), "--workdir", str(done), "--config.optimizer.lr=1e-5", "--config.seed=9"]
    assert cli.main(args) == 1
    error = capsys.readouterr().err
    assert "config.seed: " in error and "(0.001 → 1e-05)" in error and len(error.strip().splitlines()) == 1
    taken = []
    monkeypatch.setattr(trainer, "train", lambda config, workdir, allowed: taken.extend(allowed))
    assert cli.main([*args, "--allow-change", "optimizer.lr", "--allow-change", "seed"]) == 0
    assert taken == ["optimizer.lr", "seed"]


def test_a_checkpoint_says_nothing_of_where_programs_are_kept(done):
    """They are read from there, and run."""
    import jax

    before = jax.config.jax_compilation_cache_dir
    try:
        assert open_checkpoint(str(done))[1]["config"]["compilation_cache"] == CACHE
        assert restore(str(done)).run.config.compilation_cache == run.RunConfig.compilation_cache != CACHE
        assert jax.config.jax_compilation_cache_dir != CACHE
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 64)), min_size=1, max_size=5), st.integers(1, 64))
def test_examples_are_the_sum_over_the_history(stretches, last):
    """Of stretches (steps, batch size) one after the other."""
    changes, step, total = [], 0, 0
    for steps, batch in stretches:
        step, total = step + steps, total + steps * batch
        changes.append(Change(step, history.examples(changes, step, batch), history.flops(changes, step, 2.0 * batch), {}))
        assert (changes[-1].examples, changes[-1].flops) == (total, 2.0 * total)
    assert history.examples(changes, step + 3, last) == total + 3 * last


@pytest.mark.parametrize("key, advised", [
    ("model.text.width", True), ("optimizer.ema", True), ("optimizer.lr", False), ("seed", False)])
def test_the_advice_says_where_a_change_may_not_fit_the_saved_arrays(key, advised):
    said = history._refusal({key: (8, 16)}, 6, "W")
    assert f"--allow-change {key}" in said and said.endswith("if the saved arrays keep their shapes") == advised
