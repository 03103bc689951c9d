"""The tiny video data set: every layout names the same clips, and the clips show what the captions say."""

from __future__ import annotations

import csv
import itertools
import json
import sys

import numpy as np
import pytest

from pytest_genmodel.errors import BadInputError, MissingExtraError
from pytest_genmodel.training.dataset import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), frames=9)


def decoded(file):
    import av

    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_layout_names_the_same_clips(folder):
    import pyarrow.parquet

    prompts, videos, images = (
        (folder / f"{name}.txt").read_text().splitlines() for name in ("prompts", "videos", "images")
    )
    with (folder / "metadata.csv").open() as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    parquet = pyarrow.parquet.read_table(folder / "data" / "train-00000-of-00001.parquet").to_pylist()

    assert len(prompts) == 4
    assert all((folder / name).is_file() for name in (*videos, *images))
    for column in ("text", "caption", "prompt"):
        assert [(row["file_name"], row[column]) for row in table] == list(zip(videos, prompts, strict=True))
    assert [(line["video"], line["image"], line["text"]) for line in lines] == list(
        zip(videos, images, prompts, strict=True)
    )
    assert [(row["video"]["path"], row["text"]) for row in parquet] == list(zip(videos, prompts, strict=True))
    assert parquet[0]["video"]["bytes"] == (folder / videos[0]).read_bytes()


def test_layouts_of_sat_and_finetrainers(tmp_path):
    folder = write_dataset(tmp_path / "data", clips=2, frames=9, width=32, height=16, trained_at=(9, 16, 16))

    captions = (folder / "prompts.txt").read_text().splitlines()
    [dataset] = json.loads((folder / "training.json").read_text())["datasets"]

    assert [(folder / "labels" / f"{n}.txt").read_text() for n in range(2)] == captions
    assert (dataset["data_root"], dataset["dataset_type"]) == (str(folder), "video")
    assert dataset["video_resolution_buckets"] == [[9, 16, 16]]


def pairs(folder):
    videos, prompts = ((folder / name).read_text().splitlines() for name in ("videos.txt", "prompts.txt"))
    return list(zip(videos, prompts, strict=True))


def test_layouts_of_single_trainers_name_the_same_clips(folder):
    with (folder / "data.csv").open() as stream:
        table = list(csv.DictReader(stream))
    clips = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    listed = json.loads((folder / "data.json").read_text())

    expected = pairs(folder)
    assert [(row["video"], row["prompt"]) for row in table] == expected
    assert [(row["file_path"], row["text"]) for row in listed] == expected
    assert [(row["video_path"], row["caption"]) for row in clips] == [
        (str(folder.resolve() / video), text) for video, text in expected
    ]
    for place, ending in (("videos", "mp4"), ("images", "png"), ("labels", None)):
        captions = sorted((folder / place).glob("*.txt"))
        assert [file.read_text() for file in captions] == [text for _, text in expected]
        assert ending is None or all(file.with_suffix(f".{ending}").is_file() for file in captions)


def test_clips_of_every_layout_can_be_decoded(folder):
    import io

    import av
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / "data" / "train-00000-of-00001.parquet").to_pylist()
    clips = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]

    for row, clip, (video, _) in zip(rows, clips, pairs(folder), strict=True):
        with av.open(io.BytesIO(row["video"]["bytes"])) as container:
            inside = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.array_equal(inside, decoded(folder / video))
        assert np.array_equal(inside, decoded(clip["video_path"]))


def test_configurations_name_the_folder_and_the_size(tmp_path):
    tomllib = pytest.importorskip("tomllib")
    folder = write_dataset(tmp_path / 'a "folder"', frames=9, trained_at=(5, 32, 48))

    pipe = tomllib.loads((folder / "diffusion-pipe.toml").read_text())
    musubi = tomllib.loads((folder / "musubi.toml").read_text())
    [finetrainers] = json.loads((folder / "training.json").read_text())["datasets"]

    videos = str((folder / "videos").resolve())
    assert (pipe["directory"][0]["path"], pipe["resolutions"], pipe["frame_buckets"]) == (
        videos,
        [[48, 32]],
        [5],
    )
    assert (musubi["datasets"][0]["video_directory"], musubi["general"]["resolution"]) == (videos, [48, 32])
    assert musubi["datasets"][0]["cache_directory"] == str(folder.resolve() / "cache")
    assert (finetrainers["data_root"], finetrainers["video_resolution_buckets"]) == (
        str(folder),
        [[5, 32, 48]],
    )


def test_folder_has_one_metadata_file(folder):
    """`datasets` looks at all of a folder, and refuses metadata files of two kinds."""
    assert [path.name for path in folder.rglob("metadata.*")] == ["metadata.csv"]


def test_library_datasets_reads_the_folder_and_the_parquet(folder):
    datasets = pytest.importorskip("datasets")

    videos = datasets.load_dataset("videofolder", data_dir=str(folder), split="train")
    parquet = datasets.load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"), split="train")

    prompts = [text for _, text in pairs(folder)]
    assert videos["caption"] == prompts
    assert parquet["text"] == prompts


def test_clip_shows_what_its_caption_says(folder):
    frames = decoded(folder / "videos" / "0.mp4").astype(int)

    red = (frames[..., 0] - frames[..., 1:].max(-1)) > 80
    centers = [np.nonzero(mask)[1].mean() for mask in red]
    assert frames.shape == (9, 64, 96, 3)
    assert (folder / "prompts.txt").read_text().splitlines()[0] == "a red circle moves right"
    assert all(after > before for before, after in itertools.pairwise(centers))


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    again = write_dataset(tmp_path, frames=9)

    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in files:
        theirs = (
            (again / name).read_bytes().replace(str(again.resolve()).encode(), str(folder.resolve()).encode())
        )
        assert (folder / name).read_bytes() == theirs, name


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"frames": 0}, {"width": 95}, {"height": 0}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(BadInputError, match="a data set of"):
        write_dataset(tmp_path, **wrong)


def test_missing_encoder_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(MissingExtraError, match=r"needs av: pip install 'pytest-genmodel\[train\]'"):
        write_dataset(tmp_path)
