# SPDX-License-Identifier: AGPL-3.0-or-later
"""What users type as model=, and what they get."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.errors import UserError
from yolov12.model import download, names

TURBO = "https://github.com/sunsmarterjie/yolov12/releases/download/turbo"
V1 = "https://github.com/sunsmarterjie/yolov12/releases/download/v1.0"
ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(file in the cache, address) of every download, none of which takes place."""
    asked: list[tuple[str, str]] = []

    def fetch(name: str, url: str, sha256: str | None = None, folder: str = "") -> Path:
        asked.append((f"{folder}/{name}".lstrip("/"), url))
        return Path("/cache") / name

    monkeypatch.setattr(download, "fetch", fetch)
    return asked


@pytest.mark.parametrize(
    ("typed", "upstream"),
    [
        ("yolov12n.yaml", "yolo12n.yaml"),
        ("yolov12.yaml", "yolo12.yaml"),
        ("yolov12x-seg.yaml", "yolo12x-seg.yaml"),
        ("yolov12s-cls.yaml", "yolo12s-cls.yaml"),
        ("yolov12m-pose.yaml", "yolo12m-pose.yaml"),
        ("yolov12l-obb.yaml", "yolo12l-obb.yaml"),
    ],
)
def test_yolov12_is_another_name_for_upstreams_yolo12(typed: str, upstream: str):
    assert names.resolve(typed) == upstream


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "yolo12n.yaml",
            "yolo12x-seg.yaml",
            "yolo11n.yaml",
            "yolov8n-p2.yaml",
            "yolov5n6.yaml",
            "yolov9c.yaml",
            "yolov10n.yaml",
        ),
        *("rtdetr-l.yaml", "yolo11n.pt", "yolov5n.pt", "yolo26n.pt", "rtdetr-l.pt", "yolo11n", "yolo26n-reid.onnx"),
        *(
            "ultralytics/cfg/models/12/yolo12n.yaml",
            "cfg/models/12/yolo12.yaml"[4:] and "ultralytics/cfg/models/v8/yolov8.yaml",
        ),
        *("http://localhost:8000/yolo", "grpc://localhost:8001/yolo", "ul://user/project/model"),
    ],
)
def test_other_names_that_upstream_knows_pass_unchanged(typed: str):
    assert names.resolve(typed) == typed


def test_upstream_builds_every_architecture_that_is_known():
    from ultralytics.nn.tasks import yaml_model_load

    for name in names.known_architectures():
        assert yaml_model_load(names.resolve(name))["backbone"], name


@pytest.mark.parametrize("size", "nsmlx")
def test_each_name_of_released_weights_means_one_file(size: str, fetched: list[tuple[str, str]]):
    meanings = {
        f"yolov12{size}.pt": (f"yolov12{size}-turbo.pt", f"{TURBO}/yolov12{size}.pt"),
        f"yolov12{size}": (f"yolov12{size}-turbo.pt", f"{TURBO}/yolov12{size}.pt"),
        f"yolov12{size}-turbo.pt": (f"yolov12{size}-turbo.pt", f"{TURBO}/yolov12{size}.pt"),
        f"yolov12{size}-v1.0.pt": (f"yolov12{size}-v1.0.pt", f"{V1}/yolov12{size}.pt"),
        f"yolov12{size}-v1.0": (f"yolov12{size}-v1.0.pt", f"{V1}/yolov12{size}.pt"),
        f"yolo12{size}.pt": (f"yolo12{size}.pt", f"{ASSETS}/yolo12{size}.pt"),
        f"yolo12{size}": (f"yolo12{size}.pt", f"{ASSETS}/yolo12{size}.pt"),
    }
    for name, (file, url) in meanings.items():
        assert names.resolve(name) == f"/cache/{file}"
        assert fetched[-1] == (file, url)


def test_the_released_files_of_ultralytics_are_those_that_its_module_lists():
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    assert names._assets() >= GITHUB_ASSETS_NAMES
    assert "yolov5n.pt" in names._assets()


def test_the_assets_address_is_the_one_that_the_pinned_ultralytics_uses():
    import inspect

    from ultralytics.utils.downloads import attempt_download_asset

    defaults = {
        name: parameter.default for name, parameter in inspect.signature(attempt_download_asset).parameters.items()
    }
    assert f"https://github.com/{defaults['repo']}/releases/download/{defaults['release']}" == names.ASSETS


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov12n.pt", "yolo12n.pt", "yolov12z.pt", "best.onnx"])
def test_a_local_file_wins_whatever_its_name(name: str, fetched: list[tuple[str, str]]):
    Path(name).touch()
    assert names.resolve(name) == name
    assert not fetched


def test_a_local_file_wins_for_a_name_without_suffix_too(fetched: list[tuple[str, str]]):
    Path("yolov12n.pt").touch()
    assert names.resolve("yolov12n") == "yolov12n.pt"
    assert not fetched


def test_a_local_architecture_wins_for_each_of_its_sizes():
    Path("mine").mkdir()
    for file in ("yolov12.yaml", "mine/yolov12.yaml"):
        Path(file).touch()
    assert names.resolve("yolov12s.yaml") == "yolov12s.yaml"
    assert names.resolve("mine/yolov12s.yaml") == "mine/yolov12s.yaml"


def test_an_exported_model_in_a_folder_passes():
    Path("yolo11n_openvino_model").mkdir()
    assert names.resolve("yolo11n_openvino_model") == "yolo11n_openvino_model"


def test_a_file_in_the_weights_folder_of_ultralytics_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[str, str]]
):
    from ultralytics.utils import SETTINGS

    monkeypatch.setitem(SETTINGS, "weights_dir", str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "yolo12n.pt").touch()
    assert names.resolve("yolo12n.pt") == str(tmp_path / "w" / "yolo12n.pt")
    assert not fetched


def test_the_address_of_a_file_is_fetched_and_two_of_one_name_are_kept_apart(fetched: list[tuple[str, str]]):
    for folder in "ab":
        assert names.resolve(f"https://user:secret@example.com/{folder}/best.pt?token=1") == "/cache/best.pt"
    (first, _), (second, _) = fetched
    assert first != second
    assert first.startswith("from/example.com/")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("yolov12z.yaml", r"no architecture has that name; nearest: yolov12"),
        ("YOLOv12n.yaml", r"nearest: yolov12n\.yaml"),
        ("yolv12n.pt", r"nearest: yolov12n\.pt"),
        ("yolov12q.yaml", r"yolov12l\.yaml, yolov12m\.yaml, yolov12n\.yaml, yolov12s\.yaml, yolov12x\.yaml$"),
        ("yolov12n.pth", r"no released weights have that name; nearest: yolov12n\.pt$"),
        ("yolov12n-v1.1.pt", r"yolov12n-v1\.0\.pt"),
        ("yolo12n-seg.pt", r"there is an architecture of that name: yolo12n-seg\.yaml"),
        ("completely different", r"docs/weights\.md"),
        ("runs/train/weights/best.pt", r"model=runs/train/weights/best\.pt: no such file$"),
        ("weights/yolov12n.pt", r"no such file; the name alone, yolov12n\.pt, is known"),
        ("cfg/yolov12n.yaml", r"no such file; the name alone, yolov12n\.yaml, is known"),
        ("best.onnx", r"model=best\.onnx: no such file$"),
        ("  ", r"model= is empty"),
    ],
)
def test_what_is_unknown_is_an_error_that_says_what_to_type(typed: str, says: str):
    with pytest.raises(UserError, match=says):
        names.resolve(typed)


def test_offline_refuses_what_upstream_would_fetch_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError, match="YOLOV12_OFFLINE=1 forbids it"):
        names.resolve("ul://user/project/model")
    assert names.resolve("http://localhost:8000/yolo")  # a model server


@given(st.text(max_size=30))
def test_any_text_gives_a_name_or_a_clear_error(text: str):
    if "://" in text:
        return
    with contextlib.suppress(UserError):
        assert names.resolve(text)


def test_common_names_need_no_torch():
    code = (
        "import sys; from yolov12.model import names; names.resolve('yolov12n.yaml'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_documentation_lists_every_released_name_with_its_address(repository: Path):
    text = (repository / "docs" / "weights.md").read_text(encoding="utf-8")
    for name, release in names.RELEASES.items():
        pattern = re.sub(r"^(yolov?12)[nsmlx]", r"\1{n,s,m,l,x}", name)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{pattern}`"))
        assert f"`{release.url.rpartition('/')[0]}`" in row
