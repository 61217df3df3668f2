"""The decoder in the graph against PyAV: the same frames, bit for bit, of whatever file.

The branch of the graph that is NVDEC's on a GPU runs here with DALI's CPU decoder, which knows VP8,
VP9 and MJPEG.
"""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from rewritten_videos import STAMPS, rewrite, spoil
from videos import Clip, frames_of_dali

from mgm_dali.config import RunConfig
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import GRAPH_OUTPUTS, clip_pipeline
from mgm_dali.pipelines.placement import choose_placement
from mgm_dali.pipelines.pool import read_here
from mgm_dali.pipelines.share import Share
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import VideoError, probe, read_frames

VP8 = Clip("libvpx", "webm", 96, 64, 40, start=(0, 8), velocity=(1, 0), pan=(0, 1), gop=8)
VP9 = replace(VP8, encoder="libvpx-vp9")
MJPEG = replace(VP8, encoder="mjpeg", container="mov", pixel_format="yuvj420p")
HIDDEN = replace(
    VP9,
    gop=40,
    options=(("auto-alt-ref", "1"), ("lag-in-frames", "25"), ("crf", "-1"), ("b", "60k")),
)
"""With frames that are never shown, packed together with others."""

CONTAINERS = {
    "vp8": (VP8, "webm mkv ivf"),
    "vp9": (VP9, "webm mkv mp4 ivf"),
    "mjpeg": (MJPEG, "mov mp4"),
}
PIXEL_FORMATS = {
    "vp9": (VP9, "yuv422p yuv440p yuv444p gbrp yuva420p"),
    "mjpeg": (MJPEG, "yuvj422p yuvj444p"),  # full range
}
SIZES = [(97, 65), (96, 65), (97, 64), (98, 66)]

PLAIN = {
    **{
        f"{codec} in {container}": replace(clip, container=container)
        for codec, (clip, containers) in CONTAINERS.items()
        for container in containers.split()
    },
    **{
        f"{codec} of {pixels}": replace(clip, pixel_format=pixels)
        for codec, (clip, formats) in PIXEL_FORMATS.items()
        for pixels in formats.split()
    },
    **{
        f"{codec} of {width}x{height}": replace(clip, width=width, height=height)
        for codec, clip in {"vp8": VP8, "vp9": VP9, "mjpeg": MJPEG}.items()
        for width, height in SIZES
    },
    "vp9 of 97x65 and whole chroma": replace(VP9, width=97, height=65, pixel_format="yuv444p"),
    "vp9 with hidden frames in webm": HIDDEN,
    "vp9 with hidden frames in mp4": replace(HIDDEN, container="mp4"),
    "vp9 of one group": replace(VP9, gop=40),
    "vp9 of 1 frame": replace(VP9, num_frames=1),
    "vp8 of 5 frames": replace(VP8, num_frames=5),
    "mjpeg of 7 frames": replace(MJPEG, num_frames=7),
}
"""Files as an encoder makes them."""
RETIMED = {
    f"{codec} in {container} that {stamp}": (replace(clip, container=container), stamp)
    for codec, (clip, containers) in CONTAINERS.items()
    for container in containers.split()
    for stamp in STAMPS
    # Matroska has no time before 0: such frames can only be counted.
    if container != "ivf" and not (stamp == "starts before 0" and container in ("webm", "mkv"))
}
"""Files of which only the time stamps were changed."""
CUT = {
    "vp9 in mp4 that is cut behind a key frame": (replace(VP9, container="mp4"), 8),
    "mjpeg in mov that is cut anywhere": (MJPEG, 11),
}
"""Files cut out of others, with frames before the first that is shown."""
FILES = (*PLAIN, *RETIMED, *CUT)

RUNS = {
    "every frame": ("pretrain", {"stride_frames": 1}),
    "every 12th frame": ("finetune", {"stride_frames": 12}),
    "at 12 frames a second": ("finetune", {"stride_frames": 2, "target_fps": 12.0}),
    "views": ("evaluate", {"stride_frames": 4}),
}
"""Stage, and how frames are sampled."""


def made(folder, name):
    """The file of this name."""
    if name in PLAIN:
        return PLAIN[name].path()
    path = folder / f"{FILES.index(name)}"
    if name in CUT:
        clip, first = CUT[name]
        path = path.with_suffix(f".{clip.container}")
        return rewrite(clip.path(), path, lambda seconds: seconds - first / 20, first=first)
    clip, stamp = RETIMED[name]
    return rewrite(clip.path(), path.with_suffix(f".{clip.container}"), STAMPS[stamp])


def config_for(manifest, **sections):
    tree = {
        "device": "cpu",
        "data": {"train": manifest, "val": manifest, "num_workers": 0, "prefetch_batches": 1},
        "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64},
        "evaluation": {"num_segments": 3, "num_crops": 1},
    }
    return RunConfig.model_validate(tree | sections)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [made(folder, name) for name in FILES]
    rows = [Video(path=path, label=None, **vars(probe(path))) for path in paths]
    write_manifest(folder / "videos.csv", rows, ())
    return read_manifest(folder / "videos.csv")


@pytest.fixture(scope="module")
def runs(manifest):
    """{name of the run: {PyAV or DALI: {output: array}}}, every file once, in its row's order."""
    found = {}
    for name, (stage, clip) in RUNS.items():
        config = config_for(manifest.path, clip=clip)
        placement = choose_placement(config, manifest, needs_motion=False)
        source = "block_matching" if stage == "pretrain" else None
        size = len(FILES) * (3 if stage == "evaluate" else 1)
        found[name] = {}
        for decoder in ("PyAV", "DALI"):
            feed = ClipFeed(
                manifest,
                config,
                stage,
                Share(size),
                motion_source=source,
                encoded=decoder == "DALI",
            )
            parts = clip_pipeline(feed, placement, read_here(feed)).run()
            outputs = [np.array(part.as_tensor()) for part in parts]
            found[name][decoder] = dict(zip(GRAPH_OUTPUTS, outputs, strict=True))
    return found


@pytest.mark.parametrize("name", FILES)
def test_both_decoders_give_the_same_clips(runs, manifest, name):
    row = FILES.index(name)
    for run, by_decoder in runs.items():
        theirs, ours = by_decoder["DALI"], by_decoder["PyAV"]
        here = ours["facts"][:, 0, 1] == row
        assert here.sum() == (3 if run == "views" else 1)
        for output in GRAPH_OUTPUTS:
            assert np.array_equal(ours[output][here], theirs[output][here]), (run, output)
        assert not ours["facts"][here][..., 4].any(), "no stand-in"
        changes = np.abs(np.diff(ours["video"][here], axis=2)).max((0, 1, 3, 4))
        if run == "every frame":
            shown = min(manifest[row].num_frames, 8)
            assert (changes[: shown - 1] > 0.1).all(), "one frame more or less would be seen"
            assert (changes[shown - 1 :] == 0).all(), "the last frame is repeated"


def test_the_files_are_what_their_names_say(manifest):
    index = {name: index_of(manifest[row].path) for row, name in enumerate(FILES)}
    frames = {name: manifest[row].num_frames for row, name in enumerate(FILES)}
    for name in FILES:
        steps = np.diff(index[name].pts)
        if "starts late" in name:
            assert index[name].pts[0] > 0
        if "variable rate" in name:
            assert steps.max() == pytest.approx(2.5 * steps.min(), rel=0.01)
        if "30 frames a second" in name and ("webm" in name or "mkv" in name):
            assert set(steps.tolist()) == {33, 34}  # Matroska counts milliseconds
        if "starts before 0" in name:
            assert frames[name] == 35
    assert frames["vp9 in mp4 that is cut behind a key frame"] == 30
    assert frames["vp9 of 1 frame"] == 1
    with av.open(str(HIDDEN.path())) as container:
        endings = [bytes(packet)[-1] for packet in container.demux(video=0) if packet.size]
    assert len(endings) == 40 and sum(byte & 0xE0 == 0xC0 for byte in endings) >= 2


@pytest.mark.parametrize("container", ["avi", "mkv"])
def test_frames_that_can_only_be_counted_are_left_to_pyav(container, tmp_path):
    """Another decoder would number them itself, and nobody could say whether alike."""
    path = tmp_path / f"counted.{container}"
    rewrite(VP9.path(), path, STAMPS["starts before 0" if container == "mkv" else "starts late"])
    video = Video(path=path, label=None, **vars(probe(path)))
    write_manifest(tmp_path / "videos.csv", [video], ())
    config = config_for(tmp_path / "videos.csv")
    feed = ClipFeed(
        read_manifest(tmp_path / "videos.csv"), config, "finetune", Share(1), encoded=True
    )
    arrays = dict(zip(feed.outputs, feed.sample(0), strict=True))
    reason = arrays["reason"].tobytes().rstrip(b"\0").decode()
    assert "can only be counted" in reason and "set decode=cpu" in reason


def test_dali_refuses_a_file_for_one_broken_packet_that_pyav_passes_over(tmp_path):
    whole = replace(VP9, container="mp4").path()
    path = spoil(whole, tmp_path / "spoiled.mp4", {23})  # the last one before a key frame
    others = [*range(23), *range(24, 40)]
    assert np.array_equal(read_frames(path, others), read_frames(whole, others))
    with pytest.raises(VideoError, match="frame 23 of 40 cannot be decoded"):
        read_frames(path, [23])
    with pytest.raises(RuntimeError, match="Failed to send packet to decoder"):
        frames_of_dali(path)


def test_dalis_cpu_decoder_knows_no_h264():
    with pytest.raises(RuntimeError, match="Failed to create video decoder"):
        frames_of_dali(Path(Clip().path()))
