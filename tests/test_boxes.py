"""The CSV of bounding boxes: what is read, what is clipped and counted, what is refused."""

import pytest
from small_videos import manifest_of
from videos import Clip

from mgm_dali.errors import UserError
from mgm_dali.video.boxes import read_boxes
from mgm_dali.video.manifest import read_manifest

HEADER = "path,frame,x0,y0,x1,y1\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`videos.csv` lists `clips/a b.mp4` and `clips/b.mp4`: 12 frames of 160x112."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "clips").mkdir()
    videos = [folder / "clips" / name for name in ("a b.mp4", "b.mp4")]
    for video in videos:
        video.write_bytes(Clip(num_frames=12).path().read_bytes())
    manifest_of(folder / "videos.csv", videos)
    return folder


@pytest.fixture
def boxes_in(folder):
    """Reads lines as a file of boxes."""

    def read(text, name="boxes.csv"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_boxes(path, read_manifest(folder / "videos.csv"))

    return read


def test_boxes_come_sorted_by_video_and_frame(boxes_in):
    text = HEADER + "clips/b.mp4,7,1,2,3,4\nclips/a b.mp4,9,0,0,8,8\nclips/b.mp4,2,5,6,7,8\n"
    of_videos = boxes_in(text + "\nclips/b.mp4,7,9,9,10.5,11\n").of_videos()
    assert list(of_videos) == [0, 1]
    assert of_videos[1].frames.tolist() == [2, 7, 7]
    assert of_videos[1].corners.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [9, 9, 10.5, 11]]


def test_paths_may_be_written_in_any_way_that_means_the_same(boxes_in, folder):
    names = ("../clips/b.mp4", f"{folder}/clips/b.mp4", "./../clips/x/../b.mp4")
    for name in names:
        of_videos = boxes_in(f"{HEADER}{name},0,1,2,3,4\n", "elsewhere/boxes.csv").of_videos()
        assert list(of_videos) == [1]


def test_columns_may_stand_in_any_order_behind_the_mark_of_excel(boxes_in):
    text = "\ufefflabel,x1,y1,frame,x0,y0,path\r\ncat,30,40,3,10,20,clips/b.mp4\r\n"
    (boxes,) = boxes_in(text).of_videos().values()
    assert boxes.frames.tolist() == [3] and boxes.corners.tolist() == [[10, 20, 30, 40]]


def test_boxes_over_the_border_are_clipped_and_counted(boxes_in):
    lines = ("-5,-5,20,20", "150,100,170,120", "0,0,160,112", "160,0,170,10", "-9,0,0,5")
    found = boxes_in(HEADER + "".join(f"clips/b.mp4,0,{line}\n" for line in lines))
    assert found.corners.tolist() == [[0, 0, 20, 20], [150, 100, 160, 112], [0, 0, 160, 112]]
    assert (found.clipped, found.outside, found.unlisted) == (2, 2, 0)


def test_boxes_of_videos_that_are_not_listed_are_counted(boxes_in):
    found = boxes_in(HEADER + "other.mp4,999,0,0,1,1\nclips/b.mp4,0,0,0,1,1\n")
    assert found.unlisted == 1 and len(found.rows) == 1


BAD = {
    "no columns": ("", ":1: lacks path, frame"),
    "another header": ("path,frame,x,y,w,h\n", ":1: lacks x0, y0, x1, y1"),
    "few fields": (HEADER + "clips/b.mp4,0,1,2,3\n", ":2: has 5 fields"),
    "no path": (HEADER + ",0,1,2,3,4\n", ":2: the path is empty"),
    "half a frame": (HEADER + "clips/b.mp4,0.5,1,2,3,4\n", ":2: frame is '0.5', expected a whole"),
    "frame before the first": (HEADER + "clips/b.mp4,-1,1,2,3,4\n", ":2: frame is '-1'"),
    "frame behind the last": (
        HEADER + "clips/b.mp4,11,1,2,3,4\nclips/b.mp4,12,1,2,3,4\n",
        ":3: frame is 12, but",
    ),
    "huge frame": (HEADER + f"clips/b.mp4,{10**30},1,2,3,4\n", "has 12 frames"),
    "a word": (HEADER + "clips/b.mp4,0,1,left,3,4\n", ":2: y0 is 'left', expected a number"),
    "not a number": (HEADER + "clips/b.mp4,0,1,2,nan,4\n", ":2: x1 is 'nan'"),
    "infinite": (HEADER + "clips/b.mp4,0,1,2,3,1e999\n", ":2: y1 is '1e999'"),
    "corner and size": (HEADER + "clips/b.mp4,0,50,2,20,40\n", ":2: x0 is 50 and x1 is 20"),
    "no area": (HEADER + "clips/b.mp4,0,1,7,20,7\n", ":2: y0 is 7 and y1 is 7"),
    "no box at all": (HEADER, "none of its boxes is in a picture"),
    "other videos only": (HEADER + "a.mp4,0,1,2,3,4\n", "1 are of videos not listed"),
    "an endless field": (HEADER + '"' + "x" * 200000, "cannot be read as a CSV"),
    "binary": (bytes(range(256)) * 4, ":1: lacks path"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_one_clear_error(boxes_in, name):
    text, part = BAD[name]
    with pytest.raises(UserError) as caught:
        boxes_in(text)
    message = str(caught.value)
    assert part in message and "boxes.csv" in message and "\n" not in message


def test_a_file_of_boxes_that_is_not_there_is_one_clear_error(folder):
    manifest = read_manifest(folder / "videos.csv")
    for path in (folder / "nowhere.csv", folder):
        with pytest.raises(UserError, match=r"no such file|cannot be read"):
            read_boxes(path, manifest)
