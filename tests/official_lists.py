"""Small copies of data sets as they are published: their lists, and the videos of most lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_videos import write_video

__all__ = ["EXAMPLES", "KINETICS_HEADER", "Example", "Rows", "dive", "write_example"]

Rows = list[tuple[str, int | None]]

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


@dataclass(frozen=True)
class Example:
    """A small copy of a data set, and what must come of it."""

    lists: Mapping[str, str]
    """Texts of the official files by name."""
    videos: Sequence[str]
    """Files that are there."""
    train: Rows
    val: Rows
    class_names: tuple[str, ...]
    test: Rows | None = None
    missing: Sequence[str] = ()


def ssv2(video: str, template: str) -> dict[str, Any]:
    return {"id": video, "label": template.lower(), "template": template, "placeholders": ["x"]}


def dive(video: str, label: int) -> dict[str, Any]:
    return {"vid_name": video, "label": label, "start_frame": 0, "end_frame": 48}


HMDB51_CLAP = "#20_Rhythm_clap_u_nm_np1_fr_goo_0"
HMDB51_CARTWHEEL = "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0"

EXAMPLES: dict[str, Example] = {
    "kinetics": Example(
        {
            "kinetics-400_train.csv": KINETICS_HEADER
            + "zumba,-0Zo2P3Rmcw,4,14,train,0\n"
            + '"air drumming",_dbcJuKJQNs,40,50,train,0\n'
            + '"massaging person\'s head",0QA6Rhthf0c,105,115,train,1\n'
            + "zumba,0d91kkzHWvQ,0,10,train,0\n",
            "kinetics-400_validate.csv": KINETICS_HEADER
            + "air drumming,--nQbRBEz2s,104,114,validate,0\n",
            "kinetics-400_test.csv": "youtube_id,time_start,time_end,split\n"
            "--6bJUbfpnQ,17,27,test\n",
        },
        [
            "train/zumba/-0Zo2P3Rmcw_000004_000014.mp4",
            "train/air_drumming/_dbcJuKJQNs.mkv",
            "train/massaging_persons_head/0QA6Rhthf0c_000105_000115.mp4",
            "val/--nQbRBEz2s_000104_000114.mp4",
            "test/--6bJUbfpnQ_000017_000027.mp4",
        ],
        [
            ("train/zumba/-0Zo2P3Rmcw_000004_000014.mp4", 2),
            ("train/air_drumming/_dbcJuKJQNs.mkv", 0),
            ("train/massaging_persons_head/0QA6Rhthf0c_000105_000115.mp4", 1),
        ],
        [("val/--nQbRBEz2s_000104_000114.mp4", 0)],
        ("air drumming", "massaging person's head", "zumba"),
        test=[("test/--6bJUbfpnQ_000017_000027.mp4", None)],
        missing=["0d91kkzHWvQ_000000_000010"],
    ),
    "ssv2": Example(
        {
            "something-something-v2-labels.json": json.dumps(
                {
                    "Something falling like a feather or paper": "1",
                    "Holding something next to something": "2",
                    "Approaching something with your camera": "0",
                }
            ),
            "something-something-v2-train.json": json.dumps(
                [
                    ssv2("78687", "Holding [something] next to [something]"),
                    ssv2("42326", "Approaching [something] with your camera"),
                ]
            ),
            "something-something-v2-validation.json": json.dumps(
                [ssv2("36585", "[Something] falling like a feather or paper")]
            ),
            "something-something-v2-test.json": json.dumps([{"id": "1420"}]),
        },
        ["78687.webm", "42326.mp4", "36585.webm"],
        [("78687.webm", 2), ("42326.mp4", 0)],
        [("36585.webm", 1)],
        (
            "Approaching something with your camera",
            "Something falling like a feather or paper",
            "Holding something next to something",
        ),
        missing=["1420"],
    ),
    "ucf101": Example(
        {
            "classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 YoYo\r\n",
            "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
            "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n"
            "YoYo/v_YoYo_g25_c05.avi 3\r\n",
            "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n",
            "trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 3\r\n",
            "testlist02.txt": "YoYo/v_YoYo_g25_c05.avi\r\n",
        },
        [
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
            "HandstandPushups/v_HandstandPushups_g08_c01.avi",
            "YoYo/v_YoYo_g25_c05.avi",
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        ],
        [
            ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", 0),
            ("HandstandPushups/v_HandstandPushups_g08_c01.avi", 1),
            ("YoYo/v_YoYo_g25_c05.avi", 2),
        ],
        [("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", 0)],
        ("ApplyEyeMakeup", "HandstandPushups", "YoYo"),
    ),
    "hmdb51": Example(
        {
            "cartwheel_test_split1.txt": f"{HMDB51_CARTWHEEL}.avi 2 \nboth;_f_0.avi 1 \n",
            "clap_test_split1.txt": f"{HMDB51_CLAP}.avi 1 \nboth;_f_0.avi 0 \nboth;_f_1.avi 2 \n",
            "clap_test_split2.txt": f"{HMDB51_CLAP}.avi 2 \n",
        },
        [
            f"clap/{HMDB51_CLAP}.avi",
            f"cartwheel/{HMDB51_CARTWHEEL}.avi",
            "cartwheel/both;_f_0.avi",
            "clap/both;_f_0.avi",
            "cartwheel/both;_f_1.avi",
        ],
        [("cartwheel/both;_f_0.avi", 0), (f"clap/{HMDB51_CLAP}.avi", 1)],
        [(f"cartwheel/{HMDB51_CARTWHEEL}.avi", 0)],
        ("cartwheel", "clap"),
        missing=["both;_f_1"],
    ),
    "diving48": Example(
        {
            "Diving48_vocab.json": json.dumps(
                [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]
            ),
            "Diving48_V2_train.json": json.dumps([dive("-mmq0PT-u8k_00155", 1)]),
            "Diving48_V2_test.json": json.dumps([dive("_8Vy3dlHg2w_00000", 0)]),
        },
        ["rgb/-mmq0PT-u8k_00155.mp4", "rgb/_8Vy3dlHg2w_00000.mp4"],
        [("rgb/-mmq0PT-u8k_00155.mp4", 1)],
        [("rgb/_8Vy3dlHg2w_00000.mp4", 0)],
        ("Back 15som 05Twis FREE", "Back 15som 15Twis FREE"),
    ),
    "videomae": Example(
        {
            "train.csv": 'k400/a b.mp4 1\nk400/c 7.mp4,0\n"k400/d, e.mp4" , 2\nk400/f.mp4 0 -1\n',
            "kinetics400_val_list_videos.txt": "k400/g.mp4 2\nk400/gone.mp4 1\n",
            "label_map_k400.txt": "abseiling\nair drumming\nzumba\n",
        },
        ["k400/a b.mp4", "k400/c 7.mp4", "k400/d, e.mp4", "k400/f.mp4", "k400/g.mp4"],
        [("k400/a b.mp4", 1), ("k400/c 7.mp4", 0), ("k400/d, e.mp4", 2), ("k400/f.mp4", None)],
        [("k400/g.mp4", 2)],
        ("abseiling", "air drumming", "zumba"),
        missing=["k400/gone.mp4"],
    ),
}


def write_example(layout: str, folder: Path) -> tuple[Path, Path]:
    """Writes the videos and the lists; gives the folders of both."""
    (folder / "lists").mkdir()
    for name, text in EXAMPLES[layout].lists.items():
        (folder / "lists" / name).write_text(text, newline="")
    for number, name in enumerate(EXAMPLES[layout].videos):
        path = folder / "videos" / name
        write_video(path, number, container=path.suffix[1:], **_encoder(path))
    return folder / "videos", folder / "lists"


def _encoder(path: Path) -> dict[str, str]:
    return {"encoder": {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(path.suffix, "libx264")}
