"""Ceph's own Python bindings, which exist only as distribution packages (python3-rados, python3-rbd).

They are compiled for the distribution's Python. An environment of its own does not see them, so the two files are
loaded by their path, which any CPython of the same minor version can: not by their names, which others may bear too.
"""

import importlib.util
import sys
import sysconfig
import threading
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

from holdfast.agent.ports import VolumesError

PLACES = (
    Path("/usr/lib/python3/dist-packages"),
    Path("/usr/lib64") / f"python3.{sys.version_info.minor}/site-packages",
)


_loaded: dict[str, ModuleType] = {}
_loading = threading.Lock()  # of several threads that come first, one must not get a module that is half made


def rados() -> ModuleType:
    """The librados binding. VolumesError where it is not installed."""
    return _get("rados")


def rbd() -> ModuleType:
    """The librbd binding. VolumesError where it is not installed."""
    rados()  # rbd imports it by name
    return _get("rbd")


def _get(name: str) -> ModuleType:
    with _loading:
        if name not in _loaded:
            _loaded[name] = _load(name)
        return _loaded[name]


def _load(name: str) -> ModuleType:
    for place in PLACES:
        path = place / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if path.exists():
            spec = importlib.util.spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            return module
    raise VolumesError(
        f"Ceph's Python binding {name!r} is not installed for Python 3.{sys.version_info.minor}: install python3-{name}"
        " (looked in " + ", ".join(map(str, PLACES)) + ")."
    )
