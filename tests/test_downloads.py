"""Downloads, from real servers on this machine: good ones, bad ones and none at all."""

import gzip
import hashlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from parallel_lenet.datasets import DatasetError, load
from parallel_lenet.datasets.downloads import FILES, SOURCES, Source, download, fetch

pooch = pytest.importorskip("pooch")

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]) + b"abcdef"
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1])
CONTENTS = dict(zip(FILES, [gzip.compress(part, mtime=0) for part in (IMAGES, LABELS) * 2], strict=True))
SHA256 = tuple("sha256:" + hashlib.sha256(content).hexdigest() for content in CONTENTS.values())
MD5 = tuple("md5:" + hashlib.md5(content).hexdigest() for content in CONTENTS.values())


class Handler(BaseHTTPRequestHandler):
    """Answer ``/behaviour/file``. Each behaviour but ``good`` is a way to fail."""

    server: "Server"

    def do_GET(self) -> None:
        _, behaviour, file = self.path.split("/")
        self.server.asked.append(self.path)
        content = CONTENTS[file]
        if behaviour == "forbidden" or (behaviour == "labels" and "labels" not in file):
            self.send_error(403)
            return
        if behaviour == "silent":
            self.server.stopping.wait(10)
            return
        self.send_response(200)
        if behaviour != "endless":
            self.send_header("Content-Length", str(len(content)))
        if behaviour == "encoded":
            self.send_header("Content-Encoding", "gzip" if "gzip" in self.headers["Accept-Encoding"] else "identity")
        self.end_headers()
        if behaviour == "endless":
            while not self.server.stopping.is_set():
                self.wfile.write(bytes(1 << 16))
        if behaviour == "wrong":
            content = content[:-1] + b"!"
        self.wfile.write(content[: len(content) // 2] if behaviour in ("cut", "stalled") else content)
        if behaviour == "stalled":
            self.wfile.flush()
            self.server.stopping.wait(10)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    """A server on a free port that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def source(self, *behaviours: str, checksums: tuple[str, ...] = SHA256) -> Source:
        """Make a source with one mirror a behaviour."""
        a, b, c, d = checksums
        return Source(
            "tiny", tuple(f"http://127.0.0.1:{self.server_port}/{how}/" for how in behaviours), (a, b, c, d), 1000
        )

    def stop(self) -> None:
        """Close the port. It may be called again."""
        self.stopping.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARALLEL_LENET_DATA", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "tiny"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("checksums", [SHA256, MD5])
def test_download(server: Server, cache: Path, checksums: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    train, test = fetch(server.source("good", checksums=checksums))
    assert train.inputs.tobytes() == b"abcdef"
    assert train.inputs.shape == (2, 1, 3)
    assert test.targets.tolist() == [0, 1]
    assert (train.name, test.name) == ("tiny train", "tiny test")
    assert files_in(cache) == CONTENTS
    assert capfd.readouterr() == ("", "")


def test_poochs_logger_is_silent_and_left_as_it_was(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    logger: logging.Logger = pooch.get_logger()
    before = (logger.level, list(logger.filters), list(logger.handlers))
    output = io.StringIO()
    # The handler holds the stderr of when pooch was imported, which pytest's capturing doesn't see.
    monkeypatch.setattr(logger.handlers[0], "stream", output)
    fetch(server.source("good"))
    assert output.getvalue() == ""
    assert (logger.level, list(logger.filters), list(logger.handlers)) == before


@pytest.mark.parametrize("bad", ["forbidden", "wrong", "cut", "silent", "stalled", "endless"])
def test_a_bad_mirror_is_passed_over(server: Server, cache: Path, bad: str) -> None:
    fetch(server.source(bad, "good"), timeout=(1, 0.2))
    assert files_in(cache) == CONTENTS
    # Asked once, then last: its time-out is not waited for again.
    assert [path.split("/")[1] for path in server.asked] == [bad, *["good"] * 4]


def test_mirrors_that_hold_a_part_each(server: Server, cache: Path) -> None:
    source = server.source("labels", "good")
    fetch(source)
    assert files_in(cache) == CONTENTS


def test_a_file_is_not_unpacked_on_the_way(server: Server, cache: Path) -> None:
    fetch(server.source("encoded"))
    assert files_in(cache) == CONTENTS


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("forbidden", "HTTP 403"),
        ("wrong", "wrong checksum"),
        ("endless", "larger than 1000 bytes"),
        ("cut", "connection cut"),
        ("silent", "timed out"),
        ("stalled", "timed out"),
    ],
)
def test_all_mirrors_fail(server: Server, cache: Path, bad: str, reason: str) -> None:
    host = f"127.0.0.1:{server.server_port}"
    with pytest.raises(DatasetError) as caught:
        fetch(server.source(bad, "forbidden"), timeout=(1, 0.2))
    assert str(caught.value) == (
        f"tiny cannot be downloaded, train-images-idx3-ubyte.gz failed at {host}: {reason}, {host}: HTTP 403; "
        "give a folder with its four IDX files as data_dir (--data-dir DIR), or use the bundled digits, mnist-5k"
    )
    assert not cache.exists()


def test_no_network(server: Server, cache: Path) -> None:
    server.stop()
    with pytest.raises(
        DatasetError, match=f"failed at 127.0.0.1:{server.server_port}: connection failed; give a folder"
    ):
        fetch(server.source("good"))
    assert not cache.exists()
    assert cache.parent.exists()


def test_the_cache_needs_no_network(server: Server) -> None:
    source = server.source("good")
    first = fetch(source)
    server.stop()
    again = fetch(source)
    assert [part.inputs.tolist() for part in again] == [part.inputs.tolist() for part in first]


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: b"", lambda old: old + b"\0"])
def test_a_damaged_cached_file_is_downloaded_again(
    server: Server, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    source = server.source("good")
    fetch(source)
    (cache / FILES[1]).write_bytes(damage(CONTENTS[FILES[1]]))
    server.asked.clear()
    fetch(source)
    assert files_in(cache) == CONTENTS
    assert server.asked == [f"/good/{FILES[1]}"]


def test_a_plain_file_in_the_cache_is_not_taken_for_a_checked_one(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / FILES[0].removesuffix(".gz")).write_bytes(IMAGES.replace(b"abcdef", b"ABCDEF"))
    assert fetch(server.source("good"))[0].inputs.tobytes() == b"abcdef"


def test_many_at_the_same_time(server: Server, cache: Path) -> None:
    source = server.source("good")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: fetch(source), range(8)))
    assert all(train.inputs.tobytes() == b"abcdef" for train, _ in results)
    assert files_in(cache) == CONTENTS


def test_a_cache_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(DatasetError, match=r"tiny/train-images.*: cannot be read or saved: .*; set PARALLEL_"):
        fetch(server.source("good"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_cache_is_not_waited_for(server: Server, cache: Path) -> None:
    cache.mkdir()
    os.mkfifo(cache / FILES[0])
    with pytest.raises(DatasetError, match=r"tiny/train-images.*: not a regular file"):
        fetch(server.source("good"))


@pytest.mark.parametrize(
    ("given", "said"),
    [("", "^there is no home folder"), ("~/data", "^PARALLEL_LENET_DATA is ~/data, but there is no home")],
)
def test_no_home_folder(given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a user without HOME and without an entry in the list of users."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARALLEL_LENET_DATA", given)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(DatasetError, match=rf"{said}.*; set PARALLEL_LENET_DATA to a folder that can be written$"):
        load("kmnist")
    assert list(tmp_path.iterdir()) == []


def test_without_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"downloading kmnist needs pooch, which is not installed: pip install"
    ) as caught:
        load("kmnist")
    assert caught.value.name == "pooch"


def test_an_unknown_name() -> None:
    with pytest.raises(DatasetError, match="'cifar' cannot be downloaded; allowed are mnist, fashion-mnist, kmnist"):
        download("cifar")


def test_sources_are_well_formed() -> None:
    lengths = {"sha256": 64, "md5": 32}
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.mirrors
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in source.mirrors)
        assert all(len(digest) == lengths[kind] for kind, digest in (sum_.split(":") for sum_ in source.checksums))
        assert len(set(source.checksums)) == 4
