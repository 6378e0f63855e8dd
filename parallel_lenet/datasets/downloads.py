"""Downloads MNIST and two datasets of its shape once, checks them against published checksums, and keeps them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import WARNING, Logger
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parallel_lenet import optional
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.folder import NAMES, read_files
from parallel_lenet.datasets.values import DatasetError

FILES = tuple(f"{name}.gz" for name in NAMES)
# Seconds to wait for a connection, and then for each next piece of data.
TIMEOUT = (10.0, 30.0)


@dataclass(frozen=True)
class Source:
    """Where the four files of a dataset can be downloaded: folders, each ending in ``/``, in the order to try.

    ``checksums`` belong to ``FILES``, in that order: ``sha256:...`` or ``md5:...``.
    """

    name: str
    mirrors: tuple[str, ...]
    checksums: tuple[str, str, str, str]
    most: int
    """Bytes that no file exceeds. A longer download is an error."""


# MNIST's digests are the SHA-256 of the files first published. For the others, only MD5 digests were published.
SOURCES = {
    source.name: source
    for source in (
        Source(
            "mnist",
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            (
                "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            10_000_000,
        ),
        Source(
            "fashion-mnist",
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            (
                "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "md5:25c81989df183df01b3e8a0aad5dffbe",
                "md5:bef4ecab320f06d8554ea6380940ec79",
                "md5:bb300cfdad3c16e7a12a480ee83cd310",
            ),
            27_000_000,
        ),
        Source(
            "kmnist",
            ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            (
                "md5:bdb82020997e1d708af4cf47b453dcf7",
                "md5:e144d726b3acfaa3e44228e80efcd344",
                "md5:5c965bf0a639b31b8f53240b1b52f4d7",
                "md5:7320c461ea6c1c855c0b718fb2a4b134",
            ),
            20_000_000,
        ),
    )
}


def download(name: str) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of ``mnist``, ``fashion-mnist`` or ``kmnist``.

    The first call downloads the dataset's four files into a folder of its name. That is in ``$PARALLEL_LENET_DATA`` or,
    if that is not set, in the user's cache folder. Later calls need no network. No file is larger than its source says.

    Raises DatasetError if no mirror gives a file or there is no folder for it. Raises ExtraError, a
    ModuleNotFoundError, if pooch or requests (extra ``data``) is missing or does not work.
    """
    if name not in SOURCES:
        raise DatasetError(f"dataset {name!r} cannot be downloaded; allowed are {', '.join(SOURCES)}")
    return fetch(SOURCES[name])


def fetch(source: Source, timeout: tuple[float, float] = TIMEOUT) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a source, as `download` does.

    A file in the cache is used if it matches its checksum, and downloaded again if not. A download gets its final name
    only when it is complete and checked, so that several processes may do this at the same time.
    """
    purpose = f"downloading {source.name}"
    pooch = optional.load("data", "pooch", purpose)
    requests = optional.load("data", "requests", purpose)
    folder = _folder(pooch.os_cache) / source.name

    def save(url: str, output: str, _: object) -> None:
        # Some servers label .gz files as a compressed transfer: requests would unpack them before they are checked.
        headers = {"Accept-Encoding": "identity"}
        with (
            requests.get(url, stream=True, timeout=timeout, headers=headers) as response,
            open(output, "wb") as file,
        ):
            response.raise_for_status()
            remaining_bytes = source.most
            for part in response.iter_content(1 << 16):
                remaining_bytes -= len(part)
                if remaining_bytes < 0:
                    raise ValueError(f"larger than {source.most} bytes")
                file.write(part)

    mirrors = list(source.mirrors)
    with _quiet(pooch.get_logger()), _remove_empty_folder(folder):
        for file, checksum in zip(FILES, source.checksums, strict=True):
            failures = []
            if (folder / file).exists() and not (folder / file).is_file():
                raise DatasetError(f"{folder / file}: not a regular file")
            for mirror in tuple(mirrors):
                try:
                    pooch.retrieve(mirror + file, checksum, fname=file, path=folder, downloader=save)
                    break
                # requests' errors are OSErrors, pooch's wrong checksum is a ValueError.
                except (requests.RequestException, ValueError) as error:
                    failures.append(f"{urlsplit(mirror).netloc}: {_reason(error)}")
                    # The next files ask this mirror last, so that they do not wait for its time-out again.
                    mirrors.remove(mirror)
                    mirrors.append(mirror)
                except OSError as error:
                    raise DatasetError(
                        f"{folder / file}: cannot be read or saved: {error.strerror or error}; "
                        "set PARALLEL_LENET_DATA to a folder that can be written"
                    ) from error
            else:
                raise DatasetError(
                    f"{source.name} cannot be downloaded, {file} failed at {', '.join(failures)}; give a folder "
                    "with its four IDX files as data_dir (--data-dir DIR), or use the bundled digits, mnist-5k"
                )
    return read_files([folder / file for file in FILES], source.name)


def _folder(cache: Callable[[str], Any]) -> Path:
    """The folder of the datasets. ``cache`` returns the user's cache folder."""
    folder = os.environ.get("PARALLEL_LENET_DATA")
    try:
        return Path(folder or cache("parallel-lenet")).expanduser()
    except RuntimeError as error:
        where = f"PARALLEL_LENET_DATA is {folder}, but there is" if folder else "there is"
        raise DatasetError(
            f"{where} no home folder to keep downloads in; set PARALLEL_LENET_DATA to a folder that can be written"
        ) from error


@contextmanager
def _remove_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the folder and its parents if the block fails, has created them, and has left nothing in them."""
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in absent:
                each.rmdir()
        raise


@contextmanager
def _quiet(logger: Logger) -> Iterator[None]:
    """Drop what pooch's logger would write to stderr about each download."""

    def is_warning(record: Any) -> bool:
        return bool(record.levelno >= WARNING)

    # A filter and not a level: calls in several threads each add and remove their own.
    logger.addFilter(is_warning)
    try:
        yield
    finally:
        logger.removeFilter(is_warning)


def _reason(error: Exception) -> str:
    """Why a mirror failed, in a few words. The messages of requests and pooch are many lines long."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, ValueError) and str(error).startswith("larger than"):
        return str(error)
    # A connection that becomes silent during the download is a ConnectionError whose text says so.
    if "timed out" in str(error).lower():
        return "timed out"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "wrong checksum"
    kind = type(error).__name__
    return {"ConnectionError": "connection failed", "ChunkedEncodingError": "connection cut"}.get(kind, kind)
