"""One video to H.264 made for training: what the stream is, and what is refused."""

import errno
from pathlib import Path

import av
import numpy as np
import pytest
from image_videos import encode_images, frames_of, grey, transcoded
from videos import CLIPS, Clip

from mgm_dali.errors import UserError
from mgm_dali.motion import read_motion
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.reader import VideoError, probe
from mgm_dali.video.transcoding import (
    TranscodeSettings,
    encoder_identity,
    prepared_size,
    transcode,
)


def max_reference_frames(path: Path) -> int:
    """From the sequence parameter set, as ITU-T H.264 7.3.2.1.1 spells it."""
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert extradata is not None and extradata[8] & 31 == 7
    length = int.from_bytes(extradata[6:8], "big")
    sps = extradata[8 : 8 + length].replace(b"\0\0\3", b"\0\0")
    bits = iter("".join(f"{byte:08b}" for byte in sps[4:]))

    def number() -> int:
        zeros = 0
        while next(bits) == "0":
            zeros += 1
        return int("1" + "".join(next(bits) for _ in range(zeros)), 2) - 1

    number()  # its id
    if sps[1] == 100:  # High: chroma format, bit depths, two flags
        assert [number(), number(), number(), next(bits), next(bits)] == [1, 0, 0, "0", "0"]
    number()  # digits of the frame number
    if number() == 0:  # how pictures are ordered
        number()
    return number()


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((340, 256), 256, (336, 256)),
        ((1280, 720), 256, (448, 256)),  # 455.1 lies between 448 and 464
        ((720, 1280), 320, (320, 576)),
        ((256, 256), 256, (256, 256)),
        ((320, 240), 256, (320, 240)),  # not enlarged
        ((162, 114), 256, (160, 112)),
        ((100, 60), 256, (96, 64)),
        ((8, 8), 256, (16, 16)),
        ((16, 8000), 256, (16, 8000)),
        ((720, 576), 320, (400, 320)),
    ],
)
def test_sides_are_multiples_of_16_and_no_video_is_enlarged(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert prepared_size(*size, short_side) == expected


@pytest.mark.parametrize("kind", CLIPS)
def test_every_kind_of_video_becomes_the_same_kind_of_stream(kind: str, tmp_path: Path) -> None:
    clip = CLIPS[kind]
    output, facts = transcoded(clip.path(), tmp_path, gop=10)
    assert (facts.codec, facts.num_frames) == ("h264", probe(clip.path()).num_frames)
    assert (facts.width, facts.height) == prepared_size(clip.width, clip.height, 256)
    assert facts.fps == pytest.approx(25)
    frames = frames_of(output)
    types = [av.video.frame.PictureType(frame.pict_type).name for frame in frames]
    expected = ["P" if number % 10 else "I" for number in range(facts.num_frames)]
    assert types == expected
    assert [frame.key_frame for frame in frames] == [kind == "I" for kind in expected]
    assert {frame.format.name for frame in frames} == {"yuv420p"}
    assert index_of(output).pts[0] == 0 and len(set(np.diff(index_of(output).pts))) == 1
    assert max_reference_frames(output) == 1
    assert output.read_bytes().index(b"moov") < output.read_bytes().index(b"mdat")


@pytest.mark.parametrize("gop", [1, 5, 16, 32])
def test_key_frames_stand_every_gop_whatever_the_pictures_do(gop: int, tmp_path: Path) -> None:
    cuts = encode_images(tmp_path / "cuts.mp4", grey([30, 220, 40] * 3 + [128] * 30 + [250] * 8))
    output, facts = transcoded(cuts, tmp_path, gop=gop)
    keys = [number for number, frame in enumerate(frames_of(output)) if frame.key_frame]
    assert keys == list(range(0, facts.num_frames, gop))


def test_the_stream_says_which_encoder_made_it_and_how(tmp_path: Path) -> None:
    """In a picture that is large enough for x264 to part it among the cores of a machine."""
    source = Clip(width=640, height=480).path()
    output, _ = transcoded(source, tmp_path, short_side=480, gop=12, crf=23)
    identity = encoder_identity(TranscodeSettings(short_side=480, gop=12, crf=23))
    data = output.read_bytes()
    assert identity["libx264"].startswith("core ") and identity["libx264"].encode() in data
    assert identity["options"].encode() + b"\0" in data
    expected = "bframes=0 ref=1 keyint=12 scenecut=0 threads=1 crf=23.0 psy=0 weightp=0"
    assert set(expected.split()) <= set(identity["options"].split())


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        outputs.append(transcoded(CLIPS["vp9"].path(), tmp_path / name)[0].read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    "kind", ["hevc", "vp9", "h264 with B-frames and references", "mpeg4 with B-frames in avi"]
)
def test_vectors_become_the_motion_of_one_frame(kind: str, tmp_path: Path) -> None:
    clip = CLIPS[kind]
    output, _ = transcoded(clip.path(), tmp_path)
    field = read_motion(output)
    assert field.valid.tolist() == [number % 16 > 0 for number in range(clip.num_frames)]
    for number in np.flatnonzero(field.valid):
        pixels = field.pixels()[number]
        square = np.median(pixels[clip.inside(number)], axis=0)
        background = np.median(pixels[clip.outside(number)], axis=0)
        assert np.abs(square - clip.velocity).max() <= 0.25, f"frame {number}"
        assert np.abs(background).max() <= 0.25, f"frame {number}"


def test_vectors_shrink_with_the_picture(tmp_path: Path) -> None:
    clip = Clip(width=320, height=256, pan=(4, -2), velocity=(0, 0), grain_pixels=8)
    output, facts = transcoded(clip.path(), tmp_path, short_side=128)
    assert (facts.width, facts.height) == (160, 128)
    field = read_motion(output)
    for number in np.flatnonzero(field.valid):
        background = field.pixels()[number][clip.outside(number)[::2, ::2]]
        assert np.median(background, axis=0).tolist() == [2, -1], f"frame {number}"


def test_a_source_with_other_frames_than_promised_is_refused(tmp_path: Path) -> None:
    for kind in ("h264", "h264 in avi"):
        with pytest.raises(VideoError, match=r"24 frames can be read, .* promises 25"):
            transcode(CLIPS[kind].path(), tmp_path / "out.mp4", TranscodeSettings(), num_frames=25)


def test_a_source_that_loses_a_frame_is_refused(tmp_path: Path) -> None:
    data = bytearray(CLIPS["vp9"].path().read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    source = tmp_path / "source.webm"
    source.write_bytes(data)
    promised = len(index_of(source).pts)
    with pytest.raises(VideoError, match="can be read, the manifest promises"):
        transcode(source, tmp_path / "out.mp4", TranscodeSettings(), num_frames=promised)


def test_a_source_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    both = (Clip(container="h264", width=width) for width in (160, 192))
    source = tmp_path / "source.h264"
    source.write_bytes(b"".join(clip.path().read_bytes() for clip in both))
    with pytest.raises(VideoError, match="size changes from 160x112 to 192x112 at frame 24"):
        transcode(source, tmp_path / "out.mp4", TranscodeSettings(), num_frames=48)


def test_a_source_shorter_than_a_frame_is_refused(tmp_path: Path) -> None:
    settings = TranscodeSettings(fps=0.1)
    with pytest.raises(VideoError, match=r"too short for a single frame at 0\.1 a second"):
        transcode(CLIPS["h264"].path(), tmp_path / "out.mp4", settings, num_frames=24)


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path) -> None:
    output = tmp_path / "full.mp4"
    output.symlink_to("/dev/full")
    with pytest.raises(OSError) as raised:
        transcode(CLIPS["h264"].path(), output, TranscodeSettings(), num_frames=24)
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("short_side", value) for value in (0, -16, 8, 250)),
        *(("gop", value) for value in (0, 1001)),
        *(("crf", value) for value in (0, 52)),
        *(("fps", value) for value in (0.0, -1.0, 1e6, float("nan"))),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{setting.replace('_', '-')} .*: expected"):
        TranscodeSettings(**{setting: value})  # type: ignore[arg-type]
