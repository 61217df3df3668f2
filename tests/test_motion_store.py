"""The motion store: it gives what was extracted, bit for bit, or says clearly that it cannot."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_videos import keep, write_video

from mgm_dali.motion import MOTION_SOURCES, MotionField, codec, shard
from mgm_dali.motion.store import (
    MotionStore,
    MotionStoreWriter,
    StoreError,
    fingerprint,
    read_stored_motion,
)
from mgm_dali.video.opening import VideoError

LONG = 70
"""Frames of the long video."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("videos")
    files = [write_video(root / f"{number}.mp4", number) for number in range(3)]
    long = write_video(root / "long.mp4", 4, num_frames=LONG, b_frames=2, width=120, height=72)
    return [*files, long]


@pytest.fixture
def folder(tmp_path: Path, videos: list[Path]) -> Path:
    """A store of two shards that holds all videos."""
    for number in (0, 1):
        with MotionStoreWriter(tmp_path / "motion", number, 2) as writer:
            for path in videos[number::2]:
                keep(writer, fingerprint(path), codec.read_motion(path))
    return tmp_path / "motion"


def same(a: MotionField, b: MotionField) -> bool:
    return (
        a.vectors.dtype == b.vectors.dtype
        and np.array_equal(a.vectors, b.vectors)
        and np.array_equal(a.valid, b.valid)
        and np.array_equal(a.known, b.known)
    )


def part(field: MotionField, frames: Sequence[int]) -> MotionField:
    numbers = list(frames)
    return MotionField(field.vectors[numbers], field.valid[numbers], field.known[numbers])


SUBSETS: dict[str, Sequence[int] | None] = {
    "all": None,
    "one": [5],
    "none": [],
    "a clip": range(3, 67, 4),
    "the first and the last": [0, LONG - 1],
    "backwards": range(LONG - 1, -1, -7),
    "repeated": [20, 3, 20, 20, 3],
    "at random": np.random.default_rng(0).integers(0, LONG, 30).tolist(),
}


@pytest.mark.parametrize("frames", SUBSETS.values(), ids=SUBSETS)
def test_the_store_equals_the_live_field_for_any_frames(
    folder: Path, videos: list[Path], frames: Sequence[int] | None
) -> None:
    stored = MotionStore(folder).read_motion(videos[-1], frames)
    numbers = range(LONG) if frames is None else frames
    live = codec.read_motion(videos[-1])
    assert not live.known[live.valid].all()
    assert same(stored, part(live, numbers))
    if numbers:
        assert same(stored, codec.read_motion(videos[-1], list(numbers)))
    assert same(stored, MotionStore(folder).read_motion(videos[-1], np.array(numbers, dtype=int)))


def test_every_value_of_int16_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "any file"
    path.write_bytes(b"content")
    rng = np.random.default_rng(1)
    vectors = rng.integers(-(2**15), 2**15, (33, 5, 3, 2), dtype=np.int16)
    field = MotionField(vectors, rng.random(33) < 0.5)
    with MotionStoreWriter(tmp_path / "motion", 0, 1) as writer:
        keep(writer, fingerprint(path), field)
    assert same(MotionStore(tmp_path / "motion").read_motion(path), field)


def test_the_table_of_sources_reads_it(folder: Path, videos: list[Path]) -> None:
    stored = MOTION_SOURCES["store"](videos[0], [3, 1], folder)
    assert same(stored, codec.read_motion(videos[0], [3, 1]))
    with pytest.raises(StoreError, match=r"data\.motion_store"):
        read_stored_motion(videos[0], None, None)


def test_a_moved_file_is_found_and_a_replaced_one_is_not(
    folder: Path, videos: list[Path], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.mp4"
    shutil.copyfile(videos[0], moved)
    store = MotionStore(folder)
    assert same(store.read_motion(moved), codec.read_motion(videos[0]))
    write_video(moved, 99)
    with pytest.raises(StoreError, match="no record of this file") as caught:
        store.read_motion(moved)
    assert "mgm-dali extract" in str(caught.value)


@pytest.mark.parametrize("place", [0, 1000, -1, -1000])
def test_a_fingerprint_changes_with_the_beginning_the_end_and_the_size(
    tmp_path: Path, place: int
) -> None:
    content = bytearray(os.urandom(200_000))
    path = tmp_path / "file"
    path.write_bytes(content)
    first = fingerprint(path)
    assert fingerprint(path) == first
    content[place] ^= 1
    path.write_bytes(content)
    second = fingerprint(path)
    path.write_bytes(content + b"!")
    assert len({first, second, fingerprint(path)}) == 3


def test_what_is_no_file_has_no_fingerprint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "pipe", "."):
        with pytest.raises(VideoError):
            fingerprint(tmp_path / name)


def test_a_frame_that_is_not_in_the_video_is_refused(folder: Path, videos: list[Path]) -> None:
    for frames in ([0, LONG], [-1]):
        with pytest.raises(StoreError, match=f"its record has {LONG}"):
            MotionStore(folder).read_motion(videos[-1], frames)


def test_a_store_pickles_as_its_folder(folder: Path, videos: list[Path]) -> None:
    store = MotionStore(folder)
    before = store.read_motion(videos[0])
    pickled = pickle.dumps(store)
    assert len(pickled) < 150 + len(str(folder))
    assert same(pickle.loads(pickled).read_motion(videos[0]), before)


FORKING = """
import os, sys
from mgm_dali.motion.store import MotionStore
store = MotionStore(sys.argv[1])
before = store.read_motion(sys.argv[2]).vectors
child = os.fork()
if child == 0:
    os._exit(0 if (store.read_motion(sys.argv[2]).vectors == before).all() else 1)
_, status = os.waitpid(child, 0)
after = store.read_motion(sys.argv[2]).vectors
sys.exit(status or not (after == before).all())
"""


def test_an_open_store_survives_a_fork(folder: Path, videos: list[Path]) -> None:
    with script(FORKING, folder, videos[0]) as process:
        assert process.wait() == 0


def script(text: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process that runs this program; use it with `with`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_flipped_bit_is_told_or_harmless(folder: Path, videos: list[Path]) -> None:
    path = videos[-1]
    live = codec.read_motion(path)
    place = folder / "shard-00001-of-00002.lmdb"
    content = place.read_bytes()
    start = content.index(LONG.to_bytes(4, "little") + (9).to_bytes(4, "little"))
    told = 0
    flips = [*range(start, start + 160, 3), *range(start + 160, len(content), 997)]
    for number, position in enumerate(flips):
        broken = bytearray(content)
        broken[position] ^= 1 << number % 8
        place.write_bytes(broken)
        shard_store = folder.with_name(f"copy {number}")  # files that are open stay as they were
        shard_store.mkdir()
        for name in ("store.json", place.name):
            shutil.copyfile(folder / name, shard_store / name)
        try:
            assert same(MotionStore(shard_store).read_motion(path), live)
        except StoreError as error:
            assert "mgm-dali extract" in str(error)
            told += 1
    assert told > len(flips) / 2


def test_only_the_frames_that_are_needed_are_read(folder: Path, videos: list[Path]) -> None:
    path = videos[-1]
    live = codec.read_motion(path)
    place = folder / "shard-00001-of-00002.lmdb"
    content = bytearray(place.read_bytes())
    frames = [at for at in range(len(content)) if content.startswith(b"\x28\xb5\x2f\xfd", at)]
    assert len(frames) == 20 + LONG  # zstd's magic number: a short video and the long one
    content[frames[-6] + 20] ^= 1
    place.write_bytes(content)
    store = MotionStore(folder)
    assert same(store.read_motion(path, range(64)), part(live, range(64)))
    with pytest.raises(StoreError, match="frame 64 is broken"):
        store.read_motion(path, [64])


def test_a_shard_that_was_cut_short_is_told_not_fatal(folder: Path, videos: list[Path]) -> None:
    big = MotionField(
        np.random.default_rng(0).integers(-99, 99, (300, 64, 64, 2), dtype=np.int16),
        np.ones(300, bool),
    )
    with MotionStoreWriter(folder, 0, 2) as writer:
        keep(writer, b"big", big)
    os.truncate(folder / "shard-00000-of-00002.lmdb", 100_000)
    with pytest.raises(StoreError, match="is cut short"):
        MotionStore(folder).read_motion(videos[0])


@pytest.mark.parametrize(
    ("description", "found"),
    [
        (None, "no motion store there"),
        ("", "does not describe a motion store"),
        ("[]", "does not describe a motion store"),
        ('{"format": 1}', "has format 1, this version reads 2"),
    ],
)
def test_what_is_no_store_of_ours_is_refused(
    tmp_path: Path, description: str | None, found: str
) -> None:
    if description is not None:
        (tmp_path / "store.json").write_text(description)
        with pytest.raises(StoreError, match=found), MotionStoreWriter(tmp_path, 0, 1):
            pass
    with pytest.raises(StoreError, match=found):
        MotionStore(tmp_path)


def test_a_place_where_no_store_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="no store can be made there: Not a directory"),
        MotionStoreWriter(tmp_path / "file" / "motion", 0, 1),
    ):
        pass


def test_a_file_that_is_no_shard_is_named(folder: Path, videos: list[Path]) -> None:
    (folder / "shard-00000-of-00002.lmdb").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"shard-00000-of-00002\.lmdb: cannot be opened"):
        MotionStore(folder).read_motion(videos[0])


def test_a_shard_outgrows_its_first_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "FIRST_MAP_BYTES", 1 << 16)
    rng = np.random.default_rng(0)
    with MotionStoreWriter(tmp_path / "motion", 0, 1) as writer:
        for number in range(8):
            vectors = rng.integers(-(2**15), 2**15, (4, 50, 50, 2), dtype=np.int16)
            keep(writer, b"%d" % number, MotionField(vectors, np.ones(4, bool)))
            writer.commit()
        assert all(writer.has(b"%d" % number) for number in range(8))
    with MotionStoreWriter(tmp_path / "motion", 1, 2) as writer:
        assert all(writer.has(b"%d" % number) for number in range(8))
        assert not writer.has(b"8")


def test_a_full_disk_is_one_clear_error_and_what_is_written_stays(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "motion"
    writer = MotionStoreWriter(folder, 0, 1)
    with pytest.raises(StoreError, match=r"the disk is full: 1 MB are free.*run the same"), writer:
        keep(writer, fingerprint(videos[0]), codec.read_motion(videos[0]))
        writer.commit()
        monkeypatch.setattr(shard, "_free_bytes", lambda _: 1_000_000)
        keep(writer, fingerprint(videos[1]), codec.read_motion(videos[1]))
    monkeypatch.undo()
    assert same(MotionStore(folder).read_motion(videos[0]), codec.read_motion(videos[0]))
    with MotionStoreWriter(folder, 0, 1) as writer:
        assert not writer.has(fingerprint(videos[1]))


REFUSED = """
import os, resource, signal, sys
from mgm_dali.motion.shard import Shard, StoreError
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
file = Shard(Path(sys.argv[1]), "write")
written = []
try:
    for number in range(100):
        file.put({b"%d" % number: os.urandom(100_000)})
        written.append(number)
except StoreError as error:
    print(written[-1], error)
"""


def test_a_write_that_the_system_refuses_leaves_what_was_written(tmp_path: Path) -> None:
    with script(REFUSED, tmp_path / "shard.lmdb") as process:
        said, _ = process.communicate()
    last, _, message = said.partition(" ")
    assert "cannot be written" in message and "run the same command again" in message
    file = shard.Shard(tmp_path / "shard.lmdb", "read")
    assert all(b"%d" % number in file for number in range(int(last) + 1))
    file.close()


WRITING_FOR_EVER = """
import sys, itertools
import numpy as np
from mgm_dali.motion.records import encode_field
from mgm_dali.motion.store import MotionField, MotionStoreWriter
with MotionStoreWriter(sys.argv[1], 0, 1) as writer:
    for number in itertools.count():
        field = MotionField(np.full((20, 60, 60, 2), number, np.int16), np.ones(20, bool))
        writer.add_record(b"%d" % number, encode_field(b"%d" % number, field))
        writer.commit()
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_all_that_it_had_committed(tmp_path: Path) -> None:
    folder = tmp_path / "motion"
    with script(WRITING_FOR_EVER, folder) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(30)]
        process.kill()
        last = int([*said, *process.stdout][-1])
    with MotionStoreWriter(folder, 0, 1) as writer:
        assert all(writer.has(b"%d" % number) for number in range(last + 1))
        keep(writer, b"one more", MotionField(np.ones((1, 1, 1, 2), np.int16), np.ones(1, bool)))
        writer.commit()
        assert writer.has(b"one more")
