"""A tiny video data set, written in every layout that real trainers read, all in one folder.

    prompts.txt, videos.txt, images.txt   a line for each clip: its caption, `videos/0.mp4`, `images/0.png`
    videos/, images/                      the clips, and the first frame of each; beside each its caption, `0.txt`
    metadata.csv                          file_name (the clip), text, caption and prompt, as `datasets` reads a folder
    data.jsonl                            video, image, text, caption, prompt; paths below the folder
    clips.jsonl                           video_path, caption; whole paths, as musubi-tuner wants them
    data.csv, data.json                   video, prompt (DiffSynth); file_path, text, type (VideoX-Fun)
    labels/                               `0.txt` beside `videos/0.mp4`, as SAT reads them
    training.json                         finetrainers' configuration: this folder, at one size
    diffusion-pipe.toml, musubi.toml      the same of trainers that take such a file alone
    data/train-00000-of-00001.parquet     the clips themselves, where pyarrow is installed

Each clip shows one coloured shape that moves; its caption says so. There is one metadata file: `datasets` and
finetrainers refuse a folder that holds a metadata.csv and a metadata.jsonl.
"""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError, MissingExtraError
from pytest_genmodel.pipelines.tiny.scene import COLORS, SHAPES, render

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLIPS = 4
FRAMES = 81
"""Longer than most trainers cut, and 8k + 1, as CogVideoX's and Wan's VAE want it."""
WIDTH, HEIGHT = 96, 64
RATE = 8
"""Frames a second."""


def write_dataset(
    folder: Path,
    *,
    clips: int = CLIPS,
    frames: int = FRAMES,
    width: int = WIDTH,
    height: int = HEIGHT,
    trained_at: tuple[int, int, int] | None = None,
) -> Path:
    """Write the data set under `folder` (made if need be) and give it; the same arguments give the same clips.

    `trained_at` (frames, height, width) is the size that `training.json` asks for, by default that of the clips.

    Raises:
        MissingExtraError: PyAV is not installed, which writes the clips.
        BadInputError: a count is below one, or a size no even number of pixels.
    """
    if min(clips, frames) < 1 or min(width, height) < 2 or width % 2 or height % 2:
        raise BadInputError(
            f"a data set of {clips} clips of {frames} frames of {width}x{height}: at least one each, and even sizes"
        )
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for clip in range(clips):
        caption, pictures = _clip(clip, frames, width, height)
        row = {"video": f"videos/{clip}.mp4", "image": f"images/{clip}.png", "text": caption}
        _encode(pictures, folder / row["video"])
        _save_image(pictures[0], folder / row["image"])
        rows.append(row)
    _write_tables(folder, rows)
    _write_configuration(folder, trained_at or (frames, height, width))
    _write_toml(folder, trained_at or (frames, height, width))
    return folder


def _clip(number: int, frames: int, width: int, height: int) -> tuple[str, list[NDArray[np.uint8]]]:
    color, shape = list(COLORS)[number % len(COLORS)], SHAPES[number % len(SHAPES)]
    rightwards = number % 2 == 0
    pictures = []
    for frame in range(frames):
        share = 0.25 + 0.5 * frame / max(1, frames - 1)
        x = share if rightwards else 1.0 - share
        picture = render(height, width, shape=shape, color=color, center=(x, 0.5))
        pictures.append((picture * 255).round().astype("uint8"))
    return f"a {color} {shape} moves {'right' if rightwards else 'left'}", pictures


def _encode(pictures: list[NDArray[np.uint8]], file: Path) -> None:
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "train", "the tiny video data set that {dataset} stands for") from None
    height, width = pictures[0].shape[:2]
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Looking ahead, x264 does not give the same bytes each time.
        stream.options = {"preset": "ultrafast", "crf": "10", "threads": "1"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _save_image(picture: NDArray[np.uint8], file: Path) -> None:
    from PIL import Image

    Image.fromarray(picture).save(file)


def _write_tables(folder: Path, rows: list[dict[str, str]]) -> None:
    for name, key in (("prompts", "text"), ("videos", "video"), ("images", "image")):
        (folder / f"{name}.txt").write_text("".join(f"{row[key]}\n" for row in rows), encoding="utf-8")
    captions = [{"text": row["text"], "caption": row["text"], "prompt": row["text"]} for row in rows]
    both = list(zip(rows, captions, strict=True))
    _write_csv(folder / "metadata.csv", [{"file_name": row["video"], **texts} for row, texts in both])
    _write_csv(folder / "data.csv", [{"video": row["video"], "prompt": row["text"]} for row in rows])
    whole = [{"video_path": str(folder.resolve() / row["video"]), "caption": row["text"]} for row in rows]
    for name, lines in (("data.jsonl", [row | texts for row, texts in both]), ("clips.jsonl", whole)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    listed = [{"file_path": row["video"], "text": row["text"], "type": "video"} for row in rows]
    (folder / "data.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
    (folder / "labels").mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        for place in ("labels", "videos", "images"):
            (folder / place / f"{number}.txt").write_text(row["text"], encoding="utf-8")
    _write_parquet(folder, rows)


def _write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_toml(folder: Path, bucket: tuple[int, int, int]) -> None:
    frames, height, width = bucket
    clips, cache = (json.dumps(str(folder.resolve() / name)) for name in ("videos", "cache"))
    (folder / "diffusion-pipe.toml").write_text(
        f"resolutions = [[{width}, {height}]]\nframe_buckets = [{frames}]\nenable_ar_bucket = false\n\n"
        f"[[directory]]\npath = {clips}\nnum_repeats = 1\n",
        encoding="utf-8",
    )
    (folder / "musubi.toml").write_text(
        f'[general]\nresolution = [{width}, {height}]\ncaption_extension = ".txt"\nbatch_size = 1\n'
        f"enable_bucket = false\n\n[[datasets]]\nvideo_directory = {clips}\ncache_directory = {cache}\n"
        f'target_frames = [{frames}]\nframe_extraction = "head"\n',
        encoding="utf-8",
    )


def _write_configuration(folder: Path, bucket: tuple[int, int, int]) -> None:
    dataset = {
        "data_root": str(folder),
        "dataset_type": "video",
        "video_resolution_buckets": [list(bucket)],
        "reshape_mode": "bicubic",
    }
    (folder / "training.json").write_text(json.dumps({"datasets": [dataset]}), encoding="utf-8")


def _write_parquet(folder: Path, rows: list[dict[str, str]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return  # a trainer that reads parquet brings pyarrow with it
    (folder / "data").mkdir(exist_ok=True)
    videos = [{"bytes": (folder / row["video"]).read_bytes(), "path": row["video"]} for row in rows]
    table = pyarrow.table({"video": videos, "text": [row["text"] for row in rows]})
    pyarrow.parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
