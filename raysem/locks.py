"""Locks: one driver at work on an output, one process on a stage that several of them share.

A lock is a file with a heartbeat. One whose process is gone (same host) or that was silent for a minute is taken over.
On an object store two that start within the same moment are told apart by reading back.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from raysem import storage
from raysem.errors import UserError
from raysem.remote import is_remote

log = logging.getLogger(__name__)

LOCK = "_lock.json"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
WAIT_SECONDS = 0.5


@contextmanager
def run_lock(output: storage.Location) -> Iterator[None]:
    """Hold the output for one driver. A second one is refused with the name of the first.

    Raises:
        UserError: another driver is at work on this output.
    """
    location = storage.join(output, LOCK)
    token = uuid.uuid4().hex
    _acquire(location, token)
    with _held(location, token):
        yield


@contextmanager
def stage_lock(folder: storage.Location) -> Iterator[None]:
    """Hold a stage's folder; while another process does, wait."""
    location = storage.join(folder, LOCK)
    token = uuid.uuid4().hex
    told = False
    while True:
        held = _read_lock(location)
        if held is None or not _is_alive(held):
            try:
                _acquire(location, token)
                break
            except UserError as error:
                log.debug("%s", error)  # another one was faster
        elif not told:
            log.info("%s: process %s on %s is at work on it; waiting", folder, held["pid"], held["host"])
            told = True
        time.sleep(WAIT_SECONDS)
    with _held(location, token):
        yield


@contextmanager
def _held(location: storage.Location, token: str) -> Iterator[None]:
    """Keep the lock that was taken alive, and give it back."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                held = _read_lock(location)
                if held and held["token"] != token:
                    who = f"process {held['pid']} on {held['host']}"
                    log.error("%s: taken over by %s; end one of the two", location, who)
                    return
                storage.write_json(location, _lock_content(token))
            except OSError as error:
                log.warning("%s: heartbeat not written (%s)", location, error)

    thread = threading.Thread(target=beat, daemon=True, name="raysem-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        held = _read_lock(location)
        if held and held["token"] == token:
            storage.delete(location)


@contextmanager
def _one_at_a_time(location: storage.Location) -> Iterator[None]:
    """Keep other processes of this machine out of the block, where the file system of `location` can.

    Else of two that find the lock of a killed one, the slower could remove the faster one's new lock for the old.
    """
    if is_remote(location):
        yield
        return
    folder = Path(storage.absolute(location)).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # as on NFS
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _acquire(location: storage.Location, token: str) -> None:
    with _one_at_a_time(location):
        _acquire_alone(location, token)


def _acquire_alone(location: storage.Location, token: str) -> None:
    for _ in range(2):
        held = _read_lock(location)
        if held and _is_alive(held):
            raise UserError(
                f"{location}: process {held['pid']} on {held['host']} is at work on this output since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(held['began']))}; wait for it, or end it"
            )
        if held:
            again = _read_lock(location)
            if again and again["token"] == held["token"]:  # else another driver has taken it over meanwhile
                log.info("%s: left behind by process %s on %s, taken over", location, held["pid"], held["host"])
                storage.delete(location)
        if _create(location, token):
            return
    raise UserError(f"{location}: another driver took this output at the same moment; run the command again later")


def _create(location: storage.Location, token: str) -> bool:
    content = _lock_content(token)
    if not is_remote(location):
        path = Path(storage.absolute(location))
        whole = path.with_name(f".{path.name}.{token}")
        storage.write_json(str(whole), content)
        try:
            path.hardlink_to(whole)  # fails if it is there, and nobody ever sees half a lock
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)
        return True
    storage.write_json(location, content)
    time.sleep(1.0)  # the later of two writers wins on an object store; the other one sees it here
    held = _read_lock(location)
    return bool(held and held["token"] == token)


def read_lock(output: storage.Location) -> dict[str, Any] | None:
    """Host and process id of the driver that is at work on `output`, if one is."""
    held = _read_lock(storage.join(output, LOCK))
    return {"host": held["host"], "pid": held["pid"]} if held and _is_alive(held) else None


def _read_lock(location: storage.Location) -> dict[str, Any] | None:
    try:
        held = storage.read_json(location)
    except FileNotFoundError:
        return None
    except ValueError:
        held = None
    damaged = {"host": "unknown", "pid": -1, "began": 0.0, "beat": 0.0, "token": ""}
    return held if isinstance(held, dict) and damaged.keys() <= held.keys() else damaged


def _lock_content(token: str) -> dict[str, Any]:
    began = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": began, "beat": time.time(), "token": token}


def _is_alive(held: Mapping[str, Any]) -> bool:
    if held["host"] == socket.gethostname():
        try:
            return abs(psutil.Process(int(held["pid"])).create_time() - float(held["began"])) < 1.0
        except (psutil.Error, ValueError):
            return False
    return time.time() - float(held["beat"]) < STALE_SECONDS
