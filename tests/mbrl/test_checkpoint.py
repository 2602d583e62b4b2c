"""Checkpoints: what is loaded is what was saved, whatever happens to the disk or the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mbrl.experiments.checkpoint import (
    FOLDER,
    MANIFEST,
    STAGING,
    TENSORS,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from mbrl.experiments.provenance import seal, unseal


def content(step: int) -> tuple[dict[str, Tensor], dict[str, object]]:
    return {"a": torch.full((3, 4), float(step)), "b": torch.tensor([step])}, {"step": step, "x": 0.1 * step}


def save(path: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(path, *content(step), step=step)


def assert_loads(path: Path, step: int) -> None:
    tensors, meta = load_checkpoint(path)
    expected, expected_meta = content(step)
    assert meta == expected_meta
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def flip(file: Path, position: int) -> bytes:
    whole = file.read_bytes()
    file.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
    return whole


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    saved = {
        "base": base,
        "row": base[2],
        "transposed": base.T,
        "strided": base[::2, 1:],
        "same": base,
        "expanded": base[:1].expand(5, 4),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "count": torch.tensor([2**62]),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "grad": torch.ones(2, requires_grad=True),
    }
    save_checkpoint(tmp_path, saved, {}, step=0)
    loaded, _ = load_checkpoint(tmp_path)
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(bits(loaded[name]), bits(tensor)), name
        assert not loaded[name].requires_grad
        assert loaded[name].data_ptr() % 64 == 0
    loaded["base"].zero_()
    assert loaded["same"].abs().sum() > 0  # storage of its own


def test_meta_comes_back_exactly(tmp_path: Path) -> None:
    meta = {"x": 0.1 + 0.2, "big": 2**127 + 1, "nested": [[1e-300, None], {"k": "ü"}], "nan": float("inf")}
    save_checkpoint(tmp_path, {}, meta, step=0)
    assert load_checkpoint(tmp_path) == ({}, meta)


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 100, 200, 300)
    assert [path.name for path in checkpoints(tmp_path)] == ["000003-step300", "000002-step200"]
    assert_loads(tmp_path, 300)
    save(tmp_path, 250)  # after going back, an earlier step is the newest
    assert_loads(tmp_path, 250)


def test_the_manifest_says_what_wrote_it(tmp_path: Path) -> None:
    save(tmp_path, 7)
    manifest = unseal((checkpoints(tmp_path)[0] / MANIFEST).read_bytes())
    assert manifest["format"] == 1
    assert manifest["step"] == 7
    assert manifest["versions"]["torch"] == torch.__version__


def test_no_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_one_flipped_byte_falls_back_to_the_previous(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, 2)
    newest = checkpoints(tmp_path)[0]
    noticed = 0
    positions = range((newest / name).stat().st_size)
    for position in positions:
        whole = flip(newest / name, position)
        if name == MANIFEST and _same(whole, (newest / name).read_bytes()):
            assert_loads(tmp_path, 2)  # one kind of white space for another
        else:
            noticed += 1
            with pytest.warns(UserWarning, match=f"damaged checkpoint, .*{newest.name}.*using 000001-step1"):
                assert_loads(tmp_path, 1)
        (newest / name).write_bytes(whole)
    assert noticed > 0.8 * len(positions)
    assert_loads(tmp_path, 2)


def _same(one: bytes, other: bytes) -> bool:
    try:
        return unseal(one) == unseal(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("kept", [0, 50, None])
def test_a_short_or_missing_file_falls_back(tmp_path: Path, name: str, kept: int | None) -> None:
    save(tmp_path, 1, 2)
    file = checkpoints(tmp_path)[0] / name
    if kept is None:
        file.unlink()
    else:
        os.truncate(file, kept)
    with pytest.warns(UserWarning, match="damaged"):
        assert_loads(tmp_path, 1)


def test_where_all_are_damaged_all_are_named(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in checkpoints(tmp_path):
        flip(path / TENSORS, 100)
    with pytest.raises(ValueError, match=r"every checkpoint is damaged(.|\n)*000002-step2(.|\n)*000001-step1"):
        load_checkpoint(tmp_path)


def test_a_damaged_checkpoint_does_not_push_out_the_last_good_one(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    damaged = checkpoints(tmp_path)[0]
    flip(damaged / TENSORS, 100)
    save(tmp_path, 3)
    assert not damaged.exists()
    flip(checkpoints(tmp_path)[0] / TENSORS, 100)
    with pytest.warns(UserWarning, match="damaged"):
        assert_loads(tmp_path, 1)


def test_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    newest = checkpoints(tmp_path)[0]
    manifest = unseal((newest / MANIFEST).read_bytes())
    (newest / MANIFEST).write_text(seal({**manifest, "format": 2}))
    with pytest.raises(ValueError, match=r"format 2.*formats up to 1.*Upgrade: git pull; pip install"):
        load_checkpoint(tmp_path)
    save(tmp_path, 3)
    assert newest.exists()


@pytest.mark.parametrize("value", [3, torch.ones(2).to_sparse()])
def test_what_is_no_dense_tensor_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match=r"tensors\['x'\]: expected a dense Tensor"):
        save_checkpoint(tmp_path, {"x": value}, {}, step=0)  # type: ignore[dict-item]
    assert checkpoints(tmp_path) == []


def test_meta_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"meta: .*JSON"):
        save_checkpoint(tmp_path, {}, {"x": torch.ones(1)}, step=0)
    assert checkpoints(tmp_path) == []


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    left_over = tmp_path / FOLDER / f"{STAGING}123"
    left_over.mkdir(parents=True)
    (left_over / TENSORS).write_bytes(b"half")
    save(tmp_path, 1)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["000001-step1"]


KILLED = """
import os, random, signal, sys, time, warnings
import torch
from mbrl.experiments.checkpoint import checkpoints, load_checkpoint, save_checkpoint
torch.set_num_threads(1)
warnings.simplefilter("error", UserWarning)  # no kill may leave a damaged checkpoint behind
path, random_state = sys.argv[1], random.Random(0)

def save(step):
    tensors = {"a": torch.full((20_000,), float(step)), "b": torch.full((3,), step)}
    save_checkpoint(path, tensors, {"s": step}, step=step)

save(0)
newest = 0
for trial in range(40):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for step in range(newest + 1, 10**9):
            save(step)
            os.write(writing, step.to_bytes(8, "little"))
    os.close(writing)
    if trial % 2:
        os.read(reading, 8)  # past the start, into the steady state
    time.sleep(random_state.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        steps = told.read()
    finished = int.from_bytes(steps[-8:], "little") if steps else (newest + (trial % 2))
    tensors, meta = load_checkpoint(path)
    step = meta["s"]
    assert finished <= step <= finished + 1, (finished, step)
    assert tensors["a"].unique().tolist() == [float(step)] and tensors["b"].unique().tolist() == [step]
    newest = step
save(newest + 1)
names = os.listdir(os.path.join(path, "checkpoints"))
assert len(names) == 2, names
print(newest)
"""


def test_kill_9_at_any_moment_leaves_the_previous_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # checkpoints were really being saved


LIMITED = """
import errno, os, resource, signal, sys
import torch
from mbrl.experiments.checkpoint import load_checkpoint, save_checkpoint
path = sys.argv[1]
save_checkpoint(path, {"a": torch.ones(100)}, {"s": 1}, step=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    save_checkpoint(path, {"a": torch.ones(100_000)}, {"s": 2}, step=2)
except OSError as error:
    assert error.errno == errno.EFBIG, error
    print(error)
tensors, meta = load_checkpoint(path)
assert meta == {"s": 1} and tensors["a"].sum() == 100, meta
assert os.listdir(os.path.join(path, "checkpoints")) == ["000001-step1"]
"""


def test_a_limit_on_file_size_leaves_the_previous_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Earlier checkpoints are untouched; free at least" in done.stdout


def test_a_full_disk_leaves_the_previous_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        save(disk, 1)
        with pytest.raises(OSError, match=r"could not write the checkpoint of step 2 .*No space left.*mbrl resume"):
            save_checkpoint(disk, {"a": torch.ones(500_000)}, {}, step=2)
        assert_loads(disk, 1)
        assert [path.name for path in (disk / FOLDER).iterdir()] == ["000001-step1"]
        save(disk, 3)  # and there is room again
        assert_loads(disk, 3)
    finally:
        subprocess.run(["umount", disk], check=True)
