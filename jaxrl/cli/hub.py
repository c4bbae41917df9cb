"""Copies kept policies to and from repositories of Hugging Face, or folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jaxrl.cli import zoo

FILES = (zoo.CARD, zoo.ARRAYS, zoo.README)


def is_folder(place: str) -> bool:
    """Whether a place is a folder of this machine, by its first letters or because it exists."""
    return place.startswith((".", "/", "~")) or Path(place).is_dir()


def push(source: Path, place: str, private: bool = False) -> str:
    """Copies the folder of a kept policy to a repository or a folder; returns where it is.

    Args:
      source: a folder that `zoo.save` wrote.
      place: OWNER/NAME at Hugging Face, or a folder: ./policy.
      private: whether a new repository is private.

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: `place` is neither.
      RuntimeError: the repository refused.
    """
    if is_folder(place):
        out = Path(place).expanduser()
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(source / name, out / name)
        return str(out)
    place, api = _repository(place), _package().HfApi()
    try:
        api.create_repo(place, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=place,
            folder_path=source,
            allow_patterns=list(FILES),
            commit_message="A policy of jaxrl",
        )
    except Exception as error:  # of any kind: of the network, of the account, of the server
        raise RuntimeError(f"{place}: {_first_line(error)}") from error
    return f"https://huggingface.co/{place}"


def pull(place: str, out: Path, revision: str | None = None) -> None:
    """Fetches a kept policy into a folder and checks it.

    Args:
      place: OWNER/NAME at Hugging Face, or a folder: ./policy.
      out: a folder that does not exist, or is empty.
      revision: a branch, tag or commit of the repository; None: the newest.

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: `place` is no policy, or `out` is not empty.
      RuntimeError: the repository cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists: choose another --out")
    part = out.absolute().with_name(f".{out.absolute().name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _fetch(place, part, revision)
        zoo.load(part)
        if out.exists():
            out.rmdir()
        shutil.rmtree(part / ".cache", ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fetch(place: str, out: Path, revision: str | None) -> None:
    if is_folder(place):
        source = Path(place).expanduser()
        if revision is not None:
            raise ValueError(f"revision={revision!r}: a folder has none")
        for name in (zoo.CARD, zoo.ARRAYS):
            if not (source / name).is_file():
                raise ValueError(f"{place} is no policy: it has no {name}")
        for name in FILES:
            if (source / name).is_file():
                shutil.copy(source / name, out / name)
        return
    place, hub = _repository(place), _package()
    try:
        hub.snapshot_download(place, revision=revision, local_dir=out, allow_patterns=list(FILES))
    except Exception as error:
        raise RuntimeError(f"{place}: {_first_line(error)}") from error


def _repository(place: str) -> str:
    if place.count("/") != 1 or not all(place.split("/")):
        raise ValueError(f"{place!r}: must be OWNER/NAME at Hugging Face, or a folder: ./{place}")
    return place


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            "a repository of Hugging Face needs huggingface_hub: pip install 'jaxrl[hub]'"
        ) from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
