"""Headers that lie about sizes, counts and times: no file gets what it claims, only what it has."""

from pathlib import Path

import av
import numpy as np
import pytest
from every_reader import Reading, read_in_every_way
from false_headers import FALSE_TABLES, HUGE_PICTURES, NONSENSE_CLOCKS

from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.workers import Failure, run_in_workers

Readings = dict[str, Reading]

TRUE_SIDE, FALSE_SIDE = 160, 16000  # what is larger is refused by libavutil itself
MAX_MEGABYTES = 250
"""Python and its libraries take 65; a single picture of the claimed size would take 400."""


def read_all(paths: dict[str, Path]) -> Readings:
    """Each in a process with a time limit; dying or taking long fails the test."""
    outcomes = dict(
        run_in_workers(
            read_in_every_way, list(paths.values()), num_workers=2, seconds_allowed=lambda _: 20
        )
    )
    readings = {}
    for place, name in enumerate(paths):
        reading = outcomes[place]
        assert not isinstance(reading, Failure), f"{name}: {reading}"
        readings[name] = reading
    return readings


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Readings, Readings]:
    """Readings of files that claim the true size, and of those that claim 16000x16000 pixels."""
    paths: list[dict[str, Path]] = []
    for side in (TRUE_SIDE, FALSE_SIDE):
        folder = tmp_path_factory.mktemp("huge")
        paths.append({kind: folder / f"{kind}.{HUGE_PICTURES[kind][0]}" for kind in HUGE_PICTURES})
        for kind, path in paths[-1].items():
            HUGE_PICTURES[kind][1](path, side)
    return read_all(paths[0]), read_all(paths[1])


@pytest.mark.parametrize("kind", HUGE_PICTURES)
def test_a_picture_of_16000_x_16000_is_refused_before_it_takes_memory(
    kind: str, huge: tuple[Readings, Readings]
) -> None:
    true, false = huge[0][kind], huge[1][kind]
    assert true.facts is not None and true.facts.width == TRUE_SIDE, "the writer is at fault"
    assert false.facts is None and false.outcome
    assert false.peak_megabytes < MAX_MEGABYTES


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    """Readings of files with tables that claim more than there is."""
    folder = tmp_path_factory.mktemp("tables")
    paths = {kind: folder / f"{kind}.mp4" for kind in FALSE_TABLES}
    for kind, path in paths.items():
        FALSE_TABLES[kind](path)
    return read_all(paths)


@pytest.mark.parametrize("kind", FALSE_TABLES)
def test_a_table_of_2_to_the_31_entries_takes_no_memory(kind: str, tables: Readings) -> None:
    reading = tables[kind]
    assert reading.facts is None or reading.facts.num_frames <= 24
    assert reading.peak_megabytes < MAX_MEGABYTES


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    """Readings of files with time stamps that make no sense."""
    folder = tmp_path_factory.mktemp("clocks")
    paths = {}
    for kind, (suffix, write, _) in NONSENSE_CLOCKS.items():
        paths[kind] = folder / f"{len(paths)}.{suffix}"
        write(paths[kind])
    return read_all(paths)


@pytest.mark.parametrize("kind", NONSENSE_CLOCKS)
def test_frames_with_nonsense_time_stamps_are_found_or_the_file_is_refused(
    kind: str, clocks: Readings
) -> None:
    assert NONSENSE_CLOCKS[kind][2] in clocks[kind].outcome


def test_what_is_found_of_any_video_can_stand_in_a_manifest(
    clocks: Readings, tables: Readings, tmp_path: Path
) -> None:
    readings = [*clocks.values(), *tables.values()]
    videos = [
        Video(path=tmp_path / f"{row}.mp4", label=None, **vars(reading.facts))
        for row, reading in enumerate(readings)
        if reading.facts is not None
    ]
    assert len(videos) > 20
    write_manifest(tmp_path / "videos.csv", videos, ())
    assert list(read_manifest(tmp_path / "videos.csv")) == videos


TINY = {
    "h264": ("libx264", "yuv444p", "mp4"),
    "mpeg4": ("mpeg4", "yuv420p", "avi"),
    "mpeg2": ("mpeg2video", "yuv420p", "mkv"),
    "mpeg1": ("mpeg1video", "yuv420p", "mpg"),
    "vp9": ("libvpx-vp9", "yuv420p", "webm"),
    "mjpeg": ("mjpeg", "yuvj420p", "avi"),
}


def write_tiny(path: Path, kind: str, side: int, num_frames: int) -> None:
    encoder, pixel_format, _ = TINY[kind]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = side, side, pixel_format
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            image = np.full((side, side, 3), 9 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    """Readings of videos of one pixel, and of one frame."""
    folder = tmp_path_factory.mktemp("tiny")
    paths = {}
    for kind, (_, _, suffix) in TINY.items():
        for side, num_frames in ((1, 5), (64, 1)):
            name = f"{kind} {side} {num_frames}"
            paths[name] = folder / f"{name}.{suffix}"
            write_tiny(paths[name], kind, side, num_frames)
    return read_all(paths)


@pytest.mark.parametrize("kind", TINY)
def test_a_video_of_one_pixel_or_one_frame_is_a_video(kind: str, tiny: Readings) -> None:
    for side, num_frames in ((1, 5), (64, 1)):
        facts = tiny[f"{kind} {side} {num_frames}"].facts
        assert facts is not None
        assert (facts.num_frames, facts.width, facts.height) == (num_frames, side, side)
